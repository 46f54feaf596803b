"""The normal chest of the phantom: attenuation of the soft tissue, air of the lungs, bones, mediastinum and vessels.

Body coordinates: x grows to the right of the image (the patient's left), y downward, ±1 is the edge of a standard
field. A radiograph shows line integrals, so every part adds its attenuation or takes it away (air of the lungs).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from training.phantom.scene import Acquisition, PhantomPatient
from training.phantom.texture import Plane, bump, clip01, lookup, smooth_noise, step, vessel_tree

SIDES = ("right", "left")
SIGN = {"right": -1.0, "left": 1.0}
HILUM_Y = -0.06


@dataclass(slots=True, kw_only=True)
class LungField:
    """One lung in the image plane.

    outward: distance from the midline. lateral, top, floor: signed distances to chest wall, apex and diaphragm, inside
    positive. mask: 0..1. depth: 0 at the apex, 1 at the diaphragm. wall: distance to the nearest of wall and apex.
    """

    outward: Plane
    lateral: Plane
    top: Plane
    floor: Plane
    mask: Plane
    depth: Plane
    wall: Plane


@dataclass(slots=True, kw_only=True)
class Chest:
    """The planes that anatomy, findings and devices write to; all [H, W] float32.

    density: attenuation that adds. air: how much of the lungs' air is seen, 0..1. marks: opacity of each finding.
    """

    x: Plane
    y: Plane
    pixel: float
    density: Plane
    air: Plane
    vessels: Plane
    lungs: dict[str, LungField]
    heart: Plane
    marks: dict[str, Plane] = field(default_factory=dict)


def body_coordinates(rows: int, columns: int, film: Acquisition, patient: PhantomPatient) -> tuple[Plane, Plane, float]:
    """x and y of every pixel's centre in body coordinates, and the size of a pixel in them.

    The width of the film is two units whatever its height: a film that is wider than high shows less of the neck and
    the abdomen.
    """
    # Pixel centres, hence + 0.5. Both axes are divided by the columns, so that a pixel is square in body coordinates.
    u = (np.arange(columns, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / columns) - 1
    v = (np.arange(rows, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / columns) - np.float32(rows / columns)
    cosine, sine = np.float32(np.cos(film.roll)), np.float32(np.sin(film.roll))
    u, v = (u - np.float32(film.shift_x))[None, :], (v - np.float32(film.shift_y))[:, None]
    # Turned back by the roll, then enlarged: a wide patient or a close film shows less body in the same pixels.
    x = (cosine * u + sine * v) * np.float32(1 / (film.zoom_x * patient.width))
    y = (cosine * v - sine * u) * np.float32(1 / film.zoom_y)
    return x, y, 2 / columns


def lung_field(side: str, x: Plane, y: Plane, patient: PhantomPatient, film: Acquisition, lift: float) -> LungField:
    """The field of one lung. A turned person shows one lung wider; `lift` raises the diaphragm (lost volume)."""
    sign = SIGN[side]
    # Both lungs are drawn as one: mirrored, so that "outward" grows from the spine to the chest wall on either side.
    outward = (x - np.float32(patient.scoliosis)) * np.float32(sign)
    wide = 0.715 * (1 - 0.035 * sign * film.turn)
    # Distances to the four borders: a bowed chest wall, a round apex, a dome that falls off steeper outside its top
    # (the costophrenic angle), and the mediastinum.
    wall = np.float32(wide) * (1 - np.float32(0.36) * np.square((y - 0.36) / np.float32(1.08)))
    top_line = np.float32(patient.lung_top) + np.float32(2.6) * np.square(outward - np.float32(0.27))
    dome = patient.diaphragm + film.inspiration - lift + (0.045 if side == "left" else 0.0)
    away = np.abs(outward - np.float32(0.32))
    floor_line = np.float32(dome) + np.float32(1.55) * away * away * (1 + np.float32(0.5) * (outward > 0.32))
    lateral, top, floor = wall - outward, y - top_line, floor_line - y
    medial = outward - np.float32(0.085)
    # Soft steps, so that no border is sharper than a detector would show it; the diaphragm is the sharpest of the four.
    mask = step(lateral, 0.03) * step(top, 0.05) * step(floor, 0.022) * step(medial, 0.07)
    depth = (y - np.float32(patient.lung_top)) / np.maximum(floor_line - np.float32(patient.lung_top), 0.1)
    return LungField(
        outward=outward,
        lateral=lateral,
        top=top,
        floor=floor,
        mask=mask,
        depth=depth,
        wall=np.minimum(lateral, top * np.float32(0.8)),
    )


def torso(x: Plane, y: Plane, patient: PhantomPatient) -> Plane:
    """Soft tissue of the trunk, neck and shoulders, and the breasts."""
    reach = np.abs(x)
    shoulder = step(y + np.float32(0.78), 0.28)
    half_width = np.float32(0.30) + shoulder * np.float32(0.85) - np.float32(0.20) * step(y + 0.25, 0.9)
    half_width = half_width * np.float32(0.94 + 0.08 * patient.body)
    inside = clip01(1 - np.square(reach / half_width))
    tissue: Plane = np.float32(0.60 * patient.body) * np.sqrt(inside) + np.float32(0.06) * (inside > 0).astype(
        np.float32
    )
    abdomen = np.float32(0.16) * step(y - np.float32(patient.diaphragm + 0.02), 0.5) * (inside > 0)
    tissue += abdomen + np.float32(0.10) * step(reach - np.float32(0.70), 0.3) * step(-y - 0.25, 0.5) * (inside > 0)
    if patient.breast > 0:
        for sign in (-1.0, 1.0):
            radius = np.square((x - np.float32(sign * 0.42)) / 0.34) + np.square((y - 0.34) / np.float32(0.30))
            tissue += np.float32(0.11 * patient.breast) * np.sqrt(clip01(1 - radius))
    return tissue


def heart_plane(x: Plane, y: Plane, patient: PhantomPatient, film: Acquisition, size: float) -> Plane:
    """Thickness (0..1) of the heart; `size` is the cardiothoracic ratio."""
    turn = 0.05 * film.turn
    thorax = 2 * 0.66
    # On an AP film the heart lies away from the detector, and its shadow is larger.
    magnified = size * (1.035 if film.view == "AP" else 1.0)
    # The cardiothoracic ratio is what is asked for, so the width follows from it; a large heart grows to the left
    # mostly.
    right_edge, left_edge = -0.16 - 0.14 * (magnified - 0.45) + turn, 0.0
    left_edge = right_edge + magnified * thorax
    centre, half = (left_edge + right_edge) / 2, (left_edge - right_edge) / 2
    bottom = np.float32(patient.diaphragm + film.inspiration - 0.12)
    tall = 0.36 + 0.25 * (magnified - 0.42)
    dy = y - bottom
    # Sheared with height: the axis of a heart points to the left and down.
    dx = (x - np.float32(centre)) - np.float32(0.22) * dy
    radius = np.square(dx / np.float32(half)) + np.square(dy / np.float32(tall))
    ellipse = np.sqrt(clip01(np.float32(1.0) - radius * radius))
    waist = np.float32(0.125) + np.float32(0.10) * clip01((y + 0.25) * np.float32(2.5))
    pedicle = step(waist - np.abs(x - np.float32(turn + 0.035)), 0.07) * step(y + np.float32(0.30), 0.30)
    drawn: Plane = np.maximum(ellipse, np.float32(0.75) * pedicle) * step(bottom + np.float32(0.36) - y, 0.30)
    return drawn


def draw_mediastinum(chest: Chest, patient: PhantomPatient, film: Acquisition) -> None:
    """Spine, great vessels, aortic knob and the dark column of the trachea."""
    x, y = chest.x, chest.y
    turn = np.float32(0.05 * film.turn)
    bend = np.float32(patient.scoliosis) * (1 + 3 * y)
    spine = step(np.float32(0.085) - np.abs(x - bend), 0.03)
    phase = y * np.float32(9.5)
    discs = np.abs(phase - np.floor(phase) - np.float32(0.5)) * 2
    chest.density += spine * (np.float32(0.075) + np.float32(0.045) * step(discs - np.float32(0.25), 0.3))
    vessels = step(np.float32(0.155) - np.abs(x - turn - np.float32(0.015)), 0.08) * step(y + 0.62, 0.35)
    chest.density += np.float32(0.09) * vessels * step(np.float32(0.35) - y, 0.3)
    knob = np.square((x - turn - np.float32(0.125)) / 0.090) + np.square((y + 0.30) / np.float32(0.11))
    chest.density += np.float32(0.085 * patient.aorta) * np.sqrt(clip01(1 - knob))
    chest.air *= 1 - np.float32(0.75) * step(1 - knob, 0.4)
    descending = step(np.float32(0.05) - np.abs(x - turn - np.float32(0.115)), 0.03) * step(y + 0.25, 0.1)
    chest.density += np.float32(0.06 * patient.aorta) * descending * step(0.5 - y, 0.3)
    trachea = step(np.float32(0.036) - np.abs(x - turn * 0.6), 0.022) * step(np.float32(-0.22) - y, 0.06)
    chest.density -= np.float32(0.15) * trachea
    for sign, angle in ((-1.0, 0.75), (1.0, 1.0)):
        along = (x - turn * 0.6) * np.float32(sign) - (y + 0.22) * np.float32(angle)
        branch = step(np.float32(0.03) - np.abs(along), 0.02) * step(y + 0.24, 0.04) * step(np.float32(-0.07) - y, 0.06)
        chest.density -= np.float32(0.07) * branch
    gas = np.square((x - np.float32(0.40)) / 0.17) + np.square((y - np.float32(patient.diaphragm + 0.20)) / 0.09)
    chest.density -= np.float32(0.20 * patient.gastric_air) * step(1 - gas, 0.5)


def draw_vessels(chest: Chest, patient: PhantomPatient) -> None:
    """Vessels of both lungs from the hila outward, and the hila themselves."""
    for side in SIDES:
        tree = vessel_tree(patient.seed, SIDES.index(side))
        sign = np.float32(SIGN[side])
        dx = chest.x * sign - np.float32(0.15)
        dy = chest.y - np.float32(HILUM_Y)
        distance = np.sqrt(dx * dx + dy * dy)
        # Into the tree's own bins: 128 around the circle, 64 along the radius (texture.vessel_tree).
        angle = np.arctan2(dy, dx) * np.float32(128 / (2 * np.pi))
        pattern = lookup(tree, angle, np.minimum(distance * np.float32(78.0), np.float32(63.0)))
        chest.vessels += pattern * chest.lungs[side].mask * (chest.x * sign > 0)
        hilum = bump(np.sqrt(np.square(dx / 0.10) + np.square(dy / np.float32(0.17))), 1.0)
        chest.density += np.float32(0.10) * hilum * (1 + np.float32(0.25) * pattern)


def draw_bones(
    chest: Chest, patient: PhantomPatient, film: Acquisition, fracture: dict[str, tuple[float, float]]
) -> None:
    """Ribs, clavicles and shoulder blades; `fracture` gives outward and y of a break for a side."""
    for side in SIDES:
        lung = chest.lungs[side]
        _draw_ribs(chest, lung, patient, fracture.get(side))
        out = lung.outward
        shift = np.float32(0.03 * film.turn * SIGN[side])
        line = chest.y + np.float32(0.60) + np.float32(0.20) * (out - 0.05) - np.float32(0.10) * np.sin(out * 6) + shift
        inside = step(out - np.float32(0.05), 0.03) * step(np.float32(0.80) - out, 0.1)
        chest.density += inside * _tube(line, 0.034) * np.float32(0.12 * patient.rib_contrast)
        blade = step(out - np.float32(0.60) - np.float32(0.20) * (chest.y + 0.35), 0.02)
        blade = blade * step(np.float32(0.04) - chest.y, 0.2) * step(chest.y + np.float32(0.62), 0.15)
        chest.density += np.float32(0.06) * blade
        head = np.square((out - np.float32(0.93)) / 0.14) + np.square((chest.y + 0.60) / np.float32(0.13))
        arm = np.square((out - np.float32(1.0)) / 0.11) + np.square(np.minimum(chest.y + np.float32(0.55), 0) / 0.13)
        chest.density += np.float32(0.07) * (step(1 - head, 0.7) + step(1 - arm, 0.6) * step(0.1 - chest.y, 0.5))


def _tube(distance: Plane, half: float) -> Plane:
    """Attenuation of a hollow bone seen from the side: its cortex is brighter than its middle."""
    relative = clip01(np.abs(distance) * np.float32(1 / half))
    wall = step(np.float32(1.0) - relative, 0.3)
    return wall * (np.float32(0.50) + np.float32(0.75) * relative * relative)


def _draw_ribs(chest: Chest, lung: LungField, patient: PhantomPatient, broken: tuple[float, float] | None) -> None:
    out, y = lung.outward, chest.y
    gap: Plane | None = None
    callus = np.zeros_like(out)
    if broken is not None:
        at, height = np.float32(broken[0]), np.float32(broken[1])
        near = bump(y - height, 0.30)
        # The outer part of a broken rib is displaced downward, only near the height of the break.
        y = y + np.float32(0.050) * step(out - at, 0.012) * near
        gap = bump(out - at, 0.020) * bump(chest.y - height, 0.26)
        callus = np.float32(1.6) * bump(np.abs(out - at) - np.float32(0.035), 0.030) * bump(chest.y - height, 0.26)
    reach = step(lung.lateral + np.float32(0.035), 0.02) * step(out - np.float32(0.07), 0.05)
    slope = np.float32(patient.rib_slope)
    arc = np.sqrt(clip01(1 - np.square((out - 0.30) / np.float32(0.48))))
    spacing = np.float32(patient.rib_spacing)
    back = y - slope * (np.float32(0.10) - np.float32(0.24) * arc) - np.float32(0.30) * np.square(out)
    front = y - slope * np.float32(0.62) * (np.float32(0.70) - out) + np.float32(0.06)
    # Ribs cross in the picture: behind they fall outward, in front they fall inward and are fainter.
    for line, half, weight, first, last in ((back, 0.031, 0.115, -0.80, 0.66), (front, 0.036, 0.085, -0.62, 0.36)):
        # A sawtooth of the distance to the nearest rib of a stack with even spacing: all ribs of one side in one
        # expression.
        phase = (line - np.float32(first)) / spacing
        distance = (phase - np.floor(phase) - np.float32(0.5)) * spacing
        band = _tube(distance, half) * reach
        band *= step(line - np.float32(first), 0.02) * step(np.float32(last) - line, 0.02)
        if line is front:
            band *= step(out - np.float32(0.24), 0.25)
        if gap is not None:
            # Where it is broken: no bone in the gap, a dark slit there, and callus on both of its sides.
            band = band * (1 - gap) - np.float32(0.5) * gap * bump(distance, 0.06) + callus * bump(distance, 0.055)
        chest.density += np.float32(weight * patient.rib_contrast) * band


def draw_grain(chest: Chest, patient: PhantomPatient) -> None:
    """Fine structure of the lungs and soft tissue that stays with the person."""
    rng = np.random.default_rng([patient.seed, 13])
    lungs = chest.lungs["left"].mask + chest.lungs["right"].mask
    chest.vessels += np.float32(0.10) * smooth_noise(rng, chest.x, chest.y, 55.0) * lungs
    chest.density += np.float32(0.012) * smooth_noise(rng, chest.x, chest.y, 5.0)
    if chest.pixel < 0.006:  # finer than 320 px: trabecular pattern that a smaller raster could not show
        chest.density += np.float32(0.006) * smooth_noise(rng, chest.x, chest.y, 170.0, 256)
