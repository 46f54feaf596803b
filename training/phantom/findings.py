"""The findings of the phantom: each draws on a `Chest` what its degree, side and place demand.

Each leaves the plane of its own opacity in `Chest.marks`, from which the true outline of the finding is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.random import Generator

from training.phantom.anatomy import HILUM_Y, SIDES, SIGN, Chest, LungField
from training.phantom.scene import FindingState, PhantomPatient
from training.phantom.texture import Plane, bump, clip01, smooth_noise, step

ZONE_DEPTH = {"upper": 0.30, "middle": 0.56, "lower": 0.82}
"""Height of each zone in fractions of the lung, 0 apex."""


def heart_ratio(patient: PhantomPatient, state: FindingState | None) -> float:
    """Cardiothoracic ratio: 0.40 to 0.46 is normal here, from 0.53 on it is cardiomegaly."""
    if state is None:
        return 0.395 + 0.06 * patient.heart
    return 0.515 + 0.185 * state.severity


def lost_volume(state: FindingState | None, side: str) -> float:
    """The height by which atelectasis raises the diaphragm of this side."""
    return 0.0 if state is None or not state.on(side) else 0.03 + 0.13 * state.severity


def fracture_place(state: FindingState | None) -> dict[str, tuple[float, float]]:
    """Distance from the midline and height of a break, by side."""
    if state is None:
        return {}
    rng = np.random.default_rng([state.seed, 21])
    return {str(state.side): (float(rng.uniform(0.46, 0.58)), float(rng.uniform(-0.30, 0.20)))}


def draw_findings(chest: Chest, states: Mapping[str, FindingState]) -> None:
    """Draw what changes lungs and pleura, in the order in which the parts lie over one another."""
    for key, draw in _DRAW.items():
        state = states.get(key)
        if state is None:
            continue
        total = np.zeros_like(chest.x)
        for side in SIDES:
            if state.side is None or state.on(side):
                rng = np.random.default_rng([state.seed, 31 if side == "left" else 32])
                total = np.maximum(total, draw(chest, side, state, rng))
        chest.marks[key] = total


def _within(lung: LungField, rng: Generator, zone: str, margin: float) -> tuple[float, float]:
    """A place (outward fraction of the chest's half width, depth) inside a zone."""
    return float(rng.uniform(0.26 + margin, 0.50 - margin)), ZONE_DEPTH[zone] + float(rng.uniform(-0.06, 0.06))


def _draw_edema(chest: Chest, side: str, state: FindingState, rng: Generator) -> Plane:
    lung, q = chest.lungs[side], np.float32(state.severity)
    # The "bat wing": haze around the hilum that spares the periphery.
    dx = lung.outward - np.float32(0.17)
    dy = (chest.y - np.float32(HILUM_Y + 0.10)) * np.float32(0.75)
    haze = np.exp(-np.square(dx * dx + dy * dy) * np.float32(1 / 0.30**4)) * lung.mask
    mottle = 1 + np.float32(0.35) * smooth_noise(rng, chest.x, chest.y, 11.0)
    opacity = clip01(haze * mottle * (np.float32(0.16) + np.float32(0.72) * q))
    chest.vessels *= 1 + np.float32(1.1) * q * lung.mask
    reticular = np.abs(smooth_noise(rng, chest.x, chest.y, 26.0)) * lung.mask * step(lung.depth - 0.35, 0.5)
    chest.density += np.float32(0.055) * q * reticular
    # Kerley B lines: short and horizontal, at the chest wall of the base.
    kerley = step(np.float32(0.09) - lung.lateral, 0.02) * step(lung.depth - np.float32(0.72), 0.08) * lung.mask
    stripes = clip01(np.sin(chest.y * np.float32(140.0)) * np.float32(2.0) - np.float32(0.8))
    chest.density += np.float32(0.09) * q * kerley * stripes
    chest.air *= 1 - np.float32(0.85) * opacity
    return opacity


def _draw_consolidation(chest: Chest, side: str, state: FindingState, rng: Generator) -> Plane:
    lung, q = chest.lungs[side], state.severity
    outward, depth = _within(lung, rng, state.zone or "lower", 0.04)
    size = 0.13 + 0.20 * q
    rx, ry = size * float(rng.uniform(0.85, 1.15)), size * float(rng.uniform(0.75, 1.0))
    y0 = -0.75 + depth * 1.2
    noise = smooth_noise(rng, chest.x, chest.y, 9.0) + np.float32(0.6) * smooth_noise(rng, chest.x, chest.y, 22.0)
    radius = np.sqrt(np.square((lung.outward - outward) / rx) + np.square((chest.y - y0) / ry))
    opacity = step(np.float32(0.95) - radius + np.float32(0.22) * noise, 0.55) * lung.mask
    # Air bronchograms: thin darker branches within the opacity.
    bronchi = np.abs(smooth_noise(rng, chest.x, chest.y, 16.0))
    strength = np.float32(0.50 + 0.42 * q)
    chest.air *= 1 - strength * opacity * (np.float32(0.78) + np.float32(0.22) * clip01(bronchi))
    return opacity


def _draw_atelectasis(chest: Chest, side: str, state: FindingState, rng: Generator) -> Plane:
    """Plates above a raised diaphragm; a wedge of collapse where severe."""
    lung, q = chest.lungs[side], state.severity
    total: Plane = np.zeros_like(chest.x)
    for number in range(1 + round(2.4 * q)):
        slope = float(rng.uniform(-0.28, 0.12))
        height = 0.07 + 0.085 * number + float(rng.uniform(0, 0.02))
        half = 0.013 + 0.014 * q
        line = lung.floor - np.float32(height) + np.float32(slope) * (lung.outward - 0.35)
        start = float(rng.uniform(0.14, 0.24))
        plate = bump(line, half * 1.7) * step(lung.outward - np.float32(start), 0.04)
        total = np.maximum(total, plate * step(np.float32(start + 0.20 + 0.28 * q) - lung.outward, 0.05))
    # Collapse of a whole wedge above the diaphragm begins at about a quarter of the scale of severity.
    wedge = step(np.float32(0.28 * q) - lung.floor - np.float32(0.35) * (lung.outward - 0.12), 0.10)
    total = np.maximum(total, np.float32(max(0.0, q - 0.25)) * wedge)
    total *= lung.mask
    chest.air *= 1 - np.float32(0.62 + 0.2 * q) * total
    chest.density += np.float32(0.05) * total
    return total


def _draw_nodule(chest: Chest, side: str, state: FindingState, rng: Generator) -> Plane:
    lung, q = chest.lungs[side], state.severity
    outward, depth = _within(lung, rng, state.zone or "upper", 0.0)
    radius = 0.036 + 0.062 * q
    y0 = -0.75 + min(depth, 0.78) * 1.2
    squash = float(rng.uniform(0.9, 1.1))
    distance = np.sqrt(np.square((lung.outward - outward) * squash) + np.square(chest.y - y0))
    ball = np.sqrt(clip01(1 - np.square(distance / np.float32(radius))))
    edge = step(np.float32(radius) - distance, 0.014)
    chest.density += np.float32(0.10 + 0.10 * q) * ball * step(lung.mask, 0.5) + np.float32(0.07) * edge
    return edge


def _draw_pneumothorax(chest: Chest, side: str, state: FindingState, rng: Generator) -> Plane:
    """Air between the chest wall and a retracted lung: no vessels beyond the fine pleural line."""
    lung, q = chest.lungs[side], state.severity
    # Wider above than below: on an upright film the air rises.
    gap = np.float32(0.055 + 0.26 * q) * (np.float32(1.25) - np.float32(0.55) * np.clip(lung.depth, 0, 1))
    beyond = lung.wall - gap
    inside = chest.x * np.float32(SIGN[side]) > 0
    zone = step(-beyond, 0.012) * lung.mask * inside
    # The pleural line is at least a pixel wide: a small film must not lose the sign it is known by.
    line = bump(beyond, max(0.011, 1.1 * chest.pixel)) * lung.mask * inside
    chest.vessels *= 1 - zone
    chest.density += np.float32(0.10) * line
    chest.air *= 1 + np.float32(0.16) * zone
    collapsed = (1 - zone) * lung.mask * inside
    chest.air *= 1 - np.float32(0.05 + 0.34 * q * q) * collapsed
    return zone


def _draw_effusion(chest: Chest, side: str, state: FindingState, rng: Generator) -> Plane:
    """Fluid with a meniscus that climbs the lateral wall; it hides the diaphragm and the costophrenic angle."""
    lung, q = chest.lungs[side], state.severity
    level = 0.60 - (0.03 + 0.62 * q)
    across = np.clip(lung.outward / np.float32(0.68), 0, 1)
    # The meniscus climbs with the cube of the way outward, and sags towards the mediastinum while there is little
    # fluid.
    rise = np.float32(0.10 + 0.10 * q) * across**3 - np.float32(0.12 * (1 - q)) * (1 - across)
    surface = np.float32(level) - rise
    fluid = step(chest.y - surface, 0.06) * (chest.x * np.float32(SIGN[side]) > 0)
    chest.air *= 1 - np.float32(0.97) * fluid * step(lung.lateral, 0.03)
    chest.density += np.float32(0.10 + 0.06 * q) * fluid * step(lung.lateral, 0.05) * step(lung.outward - 0.08, 0.05)
    drawn: Plane = fluid * lung.mask
    return drawn


_DRAW: Mapping[str, Callable[[Chest, str, FindingState, Generator], Plane]] = {
    "edema": _draw_edema,
    "consolidation": _draw_consolidation,
    "atelectasis": _draw_atelectasis,
    "lung_nodule": _draw_nodule,
    "pneumothorax": _draw_pneumothorax,
    "pleural_effusion": _draw_effusion,
}
