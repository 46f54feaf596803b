"""Tubes, lines, implants and what else lies on a film: each is a course x = f(y) with a width and an attenuation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.phantom.anatomy import SIGN, Chest
from training.phantom.scene import Acquisition, FindingState, PhantomPatient
from training.phantom.texture import Plane, step


def draw_devices(chest: Chest, states: Mapping[str, FindingState], film: Acquisition, patient: PhantomPatient) -> None:
    """Draw the devices of the film and the nuisances (electrode leads) that mean nothing."""
    turn = 0.05 * film.turn
    if (tube := states.get("endotracheal_tube")) is not None:
        chest.marks["endotracheal_tube"] = _draw_endotracheal_tube(chest, tube, turn)
    if (line := states.get("central_line")) is not None:
        chest.marks["central_line"] = _draw_central_line(chest, line, turn)
    if (tube := states.get("feeding_tube")) is not None:
        chest.marks["feeding_tube"] = _draw_feeding_tube(chest, tube, patient)
    if (tube := states.get("chest_tube")) is not None:
        chest.marks["chest_tube"] = _draw_chest_tube(chest, tube)
    if (device := states.get("pacemaker")) is not None:
        chest.marks["pacemaker"] = _draw_pacemaker(chest, device, patient)
    if film.leads:
        _draw_leads(chest, np.random.default_rng([film.seed, 41]))


def _course(chest: Chest, points: Sequence[tuple[float, float]]) -> tuple[Plane, Plane]:
    """Distance from a course given by (x, y) points with growing y, corrected for its slope, and where it runs."""
    xs, ys = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    fine = np.linspace(ys[0], ys[-1], 200)
    # A tube bends and has no corners: the course is sampled finely and averaged over 25 samples, its ends held.
    smooth = np.convolve(np.pad(np.interp(fine, ys, xs), 12, mode="edge"), np.ones(25) / 25, mode="valid")
    slope = np.abs(np.gradient(smooth, fine))
    at = (chest.y - np.float32(ys[0])) * np.float32(199 / (ys[-1] - ys[0]))
    index = np.clip(at, 0, 199).astype(np.int32)
    centre, steep = smooth.astype(np.float32)[index], np.sqrt(1 + slope * slope).astype(np.float32)[index]
    # Across a sloped line the horizontal distance is too long by √(1 + slope²); without this a tube would thin where it
    # runs steeply sideways.
    distance = np.abs(chest.x - centre) / steep
    ends = step(chest.y - np.float32(ys[0]), 0.01) * step(np.float32(ys[-1]) - chest.y, 0.01)
    return distance, ends


def _draw_stroke(chest: Chest, points: Sequence[tuple[float, float]], half: float, weight: float) -> Plane:
    """A solid thread; never thinner than the pixel can show, but then as much fainter."""
    shown = max(half, 0.55 * chest.pixel)
    distance, ends = _course(chest, points)
    plane = step(np.float32(shown) - distance, max(0.6 * shown, chest.pixel)) * ends
    chest.density += np.float32(weight * max(half / shown, 0.6)) * plane
    return plane


def _draw_endotracheal_tube(chest: Chest, state: FindingState, turn: float) -> Plane:
    rng = np.random.default_rng([state.seed, 51])
    tip = float(rng.uniform(-0.38, -0.30))
    course = [(turn * 0.6 + 0.01, -1.2), (turn * 0.6 + float(rng.uniform(-0.012, 0.012)), tip)]
    distance, ends = _course(chest, course)
    wall = step(np.float32(0.006) - np.abs(distance - np.float32(0.020)), max(0.008, 1.2 * chest.pixel)) * ends
    chest.density += np.float32(0.13) * wall
    stripe = _draw_stroke(chest, [(x + 0.017, y) for x, y in course], 0.006, 0.22)
    drawn: Plane = np.maximum(wall, stripe)
    return drawn


def _draw_central_line(chest: Chest, state: FindingState, turn: float) -> Plane:
    """From the neck or below the clavicle of its side into the superior vena cava."""
    rng = np.random.default_rng([state.seed, 52])
    sign = SIGN[str(state.side)]
    cava = -0.105 + turn
    tip = (cava, float(rng.uniform(-0.16, -0.02)))
    if rng.random() < 0.5:
        entry = [(sign * 0.19, -1.1), (sign * 0.17, -0.78), (sign * 0.13, -0.56)]
    else:
        entry = [(sign * 0.52, -0.70), (sign * 0.34, -0.60), (sign * 0.14, -0.52)]
    return _draw_stroke(chest, [*entry, (cava + 0.01, -0.40), tip], 0.008, 0.26)


def _draw_feeding_tube(chest: Chest, state: FindingState, patient: PhantomPatient) -> Plane:
    rng = np.random.default_rng([state.seed, 53])
    bottom = patient.diaphragm
    course = [
        (0.02, -1.2),
        (0.035, -0.5),
        (0.03 + float(rng.uniform(-0.01, 0.01)), -0.1),
        (0.06, bottom - 0.05),
        (0.17, bottom + 0.12),
        (0.30 + float(rng.uniform(-0.05, 0.08)), bottom + 0.32),
    ]
    return _draw_stroke(chest, course, 0.009, 0.25)


def _draw_chest_tube(chest: Chest, state: FindingState) -> Plane:
    """From the lateral wall up to the apex: two walls and a radio-opaque stripe."""
    rng = np.random.default_rng([state.seed, 54])
    sign = SIGN[str(state.side)]
    entry = float(rng.uniform(0.15, 0.32))
    tip = float(rng.uniform(-0.58, -0.40))
    course = [
        (sign * float(rng.uniform(0.26, 0.36)), tip),
        (sign * 0.40, tip + 0.30),
        (sign * 0.55, entry - 0.10),
        (sign * 0.92, entry + 0.10),
    ]
    distance, ends = _course(chest, course)
    wall = step(np.float32(0.006) - np.abs(distance - np.float32(0.021)), max(0.010, 1.2 * chest.pixel)) * ends
    chest.density += np.float32(0.15) * wall
    drawn: Plane = np.maximum(wall, _draw_stroke(chest, course, 0.006, 0.24))
    return drawn


def _draw_pacemaker(chest: Chest, state: FindingState, patient: PhantomPatient) -> Plane:
    rng = np.random.default_rng([state.seed, 55])
    sign = SIGN[str(state.side)]
    x0, y0 = sign * float(rng.uniform(0.50, 0.58)), float(rng.uniform(-0.50, -0.42))
    box = np.power(np.abs((chest.x - np.float32(x0)) / 0.105), 3) + np.power(
        np.abs((chest.y - np.float32(y0)) / 0.09), 3
    )
    can = step(1 - box, 0.25)
    chest.density += np.float32(0.50) * can
    lead = [(x0 * 0.75, y0 - 0.13), (sign * 0.16, -0.52), (-0.09, -0.35), (-0.09, 0.02)]
    tip = [*lead, (0.02, patient.diaphragm - 0.12), (0.26, patient.diaphragm - 0.03)]
    drawn: Plane = np.maximum.reduce(
        [can, _draw_stroke(chest, tip, 0.008, 0.30), _draw_stroke(chest, [*lead, (-0.05, 0.12)], 0.007, 0.26)]
    )
    return drawn


def _draw_leads(chest: Chest, rng: np.random.Generator) -> None:
    """Wires and electrodes of a monitor, on the skin."""
    for _ in range(int(rng.integers(1, 4))):
        start, end = rng.uniform(-0.9, 0.9, 2)
        top, bottom = float(rng.uniform(-0.9, -0.3)), float(rng.uniform(0.0, 0.9))
        middle = (float(start + end) / 2 + float(rng.uniform(-0.2, 0.2)), (top + bottom) / 2)
        _draw_stroke(chest, [(float(start), top), middle, (float(end), bottom)], 0.004, 0.11)
        spot = np.sqrt(np.square(chest.x - np.float32(end)) + np.square(chest.y - np.float32(bottom)))
        chest.density += np.float32(0.14) * step(np.float32(0.022) - spot, 0.012)
