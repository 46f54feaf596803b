"""Synthetic frontal chest radiographs with exact truth: values of `phantom_scene` in, pixels and outlines out.

A picture of attenuation, not of a person: it is made so that a model can learn where fluid, air and tubes lie and how
they change, and so that tests know the truth. It is no substitute for radiographs of people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from training.phantom.anatomy import (
    SIDES,
    Chest,
    body_coordinates,
    draw_bones,
    draw_grain,
    draw_mediastinum,
    draw_vessels,
    heart_plane,
    lung_field,
    torso,
)
from training.phantom.devices import draw_devices
from training.phantom.findings import draw_findings, fracture_place, heart_ratio, lost_volume
from training.phantom.sampling import PairOptions, sample_pair
from training.phantom.scene import (
    GRADED,
    PHANTOM_FINDINGS,
    Acquisition,
    FindingState,
    PhantomPair,
    PhantomPatient,
    changes_between,
    sample_acquisition,
    sample_patient,
)
from training.phantom.texture import Plane, bump, clip01, quantum_noise, step

__all__ = [
    "GRADED",
    "PHANTOM_FINDINGS",
    "Acquisition",
    "FindingState",
    "PairOptions",
    "PhantomPatient",
    "PhantomPair",
    "Rendered",
    "changes_between",
    "composite",
    "finding_marks",
    "render",
    "render_pair",
    "sample_acquisition",
    "sample_pair",
    "sample_patient",
]

LUNG_AIR = 0.40
"""Attenuation that the air of a lung takes away at its thickest."""
MARK_FLOOR = 0.30
"""Opacity of a finding from which a pixel belongs to its outline."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rendered:
    """One film. pixels: float32 [H, W], 0..1, air dark and bone bright. masks: bool [H, W] of each finding drawn."""

    pixels: Plane
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)

    def box(self, key: str) -> tuple[float, float, float, float] | None:
        """left, top, right, bottom of a finding in fractions of the image; None where nothing of it is on the film."""
        mask = self.masks.get(key)
        if mask is None or not mask.any():
            return None
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = mask.shape
        return (
            float(columns[0]) / width,
            float(rows[0]) / height,
            float(columns[-1] + 1) / width,
            float(rows[-1] + 1) / height,
        )


def render(
    patient: PhantomPatient,
    states: Mapping[str, FindingState],
    film: Acquisition,
    rows: int,
    columns: int,
    *,
    masks: bool = False,
) -> Rendered:
    """Render one film of `rows` by `columns` pixels; with `masks`, also where each finding lies."""
    chest = _make_chest(patient, states, film, rows, columns)
    attenuation = _sum_attenuation(chest)
    pixels = _expose(attenuation, chest, film)
    drawn = {key: plane > MARK_FLOOR for key, plane in chest.marks.items()} if masks else {}
    return Rendered(pixels=pixels, masks=drawn)


def render_pair(pair: PhantomPair, rows: int, columns: int, *, masks: bool = False) -> tuple[Rendered, Rendered]:
    """The prior and the current film of a pair."""
    prior = render(pair.patient, pair.prior, pair.prior_film, rows, columns, masks=masks)
    return prior, render(pair.patient, pair.current, pair.current_film, rows, columns, masks=masks)


def composite(
    background: Plane, patient: PhantomPatient, states: Mapping[str, FindingState], film: Acquisition
) -> Plane:
    """A real film [H, W] in 0..1 with the phantom's findings laid over it; everything else of it stays.

    What a finding does to the phantom's attenuation (with it, less without it) is added to the film, scaled to the
    contrast of the film. The film's own findings are not known to the phantom and are no part of the truth.
    """
    rows, columns = background.shape
    with_it = _sum_attenuation(_make_chest(patient, states, film, rows, columns))
    without = _sum_attenuation(_make_chest(patient, {}, film, rows, columns))
    low, high = np.quantile(background, [0.02, 0.98])
    scale = np.float32(max(0.25, float(high - low)) * 1.15)
    return clip01(background + scale * (with_it - without))


def finding_marks(
    patient: PhantomPatient, states: Mapping[str, FindingState], film: Acquisition, rows: int, columns: int
) -> dict[str, Plane]:
    """Opacity 0..1 of each finding of a film, [rows, columns], without rendering the film: for a coarse raster."""
    return _make_chest(patient, states, film, rows, columns, anatomy=False).marks


def _make_chest(
    patient: PhantomPatient,
    states: Mapping[str, FindingState],
    film: Acquisition,
    rows: int,
    columns: int,
    *,
    anatomy: bool = True,
) -> Chest:
    x, y, pixel = body_coordinates(rows, columns, film, patient)
    collapse = states.get("atelectasis")
    lungs = {side: lung_field(side, x, y, patient, film, lost_volume(collapse, side)) for side in SIDES}
    chest = Chest(
        x=x,
        y=y,
        pixel=pixel,
        density=torso(x, y, patient),
        air=np.ones_like(x),
        vessels=np.zeros_like(x),
        lungs=lungs,
        heart=heart_plane(x, y, patient, film, heart_ratio(patient, states.get("cardiomegaly"))),
    )
    broken = fracture_place(states.get("fracture"))
    if anatomy:
        draw_mediastinum(chest, patient, film)
        draw_vessels(chest, patient)
        draw_grain(chest, patient)
        draw_bones(chest, patient, film, broken)
    for side, (outward, height) in broken.items():
        lung = lungs[side]
        chest.marks["fracture"] = bump(lung.outward - np.float32(outward), 0.08) * bump(y - np.float32(height), 0.26)
    if "cardiomegaly" in states:
        chest.marks["cardiomegaly"] = chest.heart
    draw_findings(chest, states)
    draw_devices(chest, states, film, patient)
    return chest


def _sum_attenuation(chest: Chest) -> Plane:
    """Everything that lies in the beam, about 0 (air) to 1 (bone over soft tissue)."""
    behind_heart = 1 - np.float32(0.90) * step(chest.heart - np.float32(0.30), 0.60)
    lungs = np.zeros_like(chest.x)
    for lung in chest.lungs.values():
        # A lung is round: the beam crosses less of it near its border, so it is darkest in the middle.
        thickness = np.sqrt(clip01(np.minimum(np.minimum(lung.lateral, lung.top), 0.30) * np.float32(1 / 0.30)))
        lungs += lung.mask * (np.float32(0.50) + np.float32(0.50) * thickness)
    seen = lungs * chest.air * behind_heart
    plane = chest.density + np.float32(0.13) * chest.heart - np.float32(LUNG_AIR) * seen
    plane += np.float32(0.105) * chest.vessels * np.minimum(seen * 1.3, 1)
    return plane


def _expose(attenuation: Plane, chest: Chest, film: Acquisition) -> Plane:
    """Scatter, focus, noise, exposure and the display curve."""
    rng = np.random.default_rng([film.seed, 61])
    plane = attenuation
    # In the order of the physics: the focus blurs what the quanta then carry with noise, the detector scales that, and
    # the display curve (a sigmoid, as a film's) bends it.
    blur = film.blur / chest.pixel
    if blur > 0.35:
        plane = ndimage.gaussian_filter(plane, blur, truncate=2.5)
    plane = plane + quantum_noise(rng, plane.shape, film.noise, chest.pixel)
    plane = (plane - np.float32(0.12)) * np.float32(film.gain / 0.92) + np.float32(film.offset)
    plane = 1 / (1 + np.exp((np.float32(0.46) - plane) * np.float32(4.6)))
    plane = clip01((plane - np.float32(0.08)) * np.float32(1 / 0.84))
    plane = np.power(plane, np.float32(film.gamma))
    # The marker and the collimated border are put on the finished picture: they are as bright or black on any exposure.
    if film.marker:
        _draw_marker(plane, rng)
    if film.collimation > 0:
        edge = int(film.collimation * plane.shape[1] / 2)
        if edge:
            plane[:, :edge] = 0.0
            plane[:, -edge:] = 0.0
    return plane.astype(np.float32, copy=False)


_LETTER = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 1]], np.float32)


def _draw_marker(plane: Plane, rng: np.random.Generator) -> None:
    """The lead letter L beside the patient's left shoulder."""
    scale = max(1, round(plane.shape[1] / 90))
    letter = _LETTER.repeat(scale, 0).repeat(scale, 1)
    top = int(rng.uniform(0.03, 0.12) * plane.shape[0])
    left = int(rng.uniform(0.86, 0.93) * plane.shape[1])
    part = plane[top : top + letter.shape[0], left : left + letter.shape[1]]
    np.maximum(part, letter[: part.shape[0], : part.shape[1]], out=part)
