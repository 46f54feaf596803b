"""Rule 4 of `report.rules`: a region must agree with its sentence. Pure: outlines and lungs in, what may be drawn out.

4a. It lies within the thorax: at least `MIN_INSIDE` of it, by the lungs that were found on the film itself. A tube or
    line may lie where it comes from and goes to as well (`DEVICE_REACH`): the tip of a feeding tube is no lung's.
4b. It lies on the side that the sentence says, by the midline between the lungs: at least `MIN_ON_SIDE` of it. The side
    of a tube or line is where it enters, and its tip may cross the midline: only a chest tube is held to its side.
4c. It is not larger than its finding can be (`MAX_SHARE` of both lungs' area).
4d. Nothing is drawn on an image whose pixels are not square: OHIF's `imageToWorldCoords` exchanges the two spacings,
    so that what is rightly coded is shown beside its place.
4e. What is drawn is clipped to the lungs or the heart where that is the finding's site.
What breaks a rule is not drawn, and Limitations says so; so is every region where the lungs were not found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dicom_node.report.dropped_regions import DroppedRegion, RegionFault
from dicom_node.report.rules import side_of
from model.checks.frontal_view import SIDE
from model.checks.lung_fields import LungFields, find_lungs
from model.images.square import square_to_stored, stored_to_square
from model.ontology import ontology
from model.schema import DisplayImage, Finding, ImageRole, Prediction, Region

Mask: TypeAlias = NDArray[np.bool_]

RASTER = 3 * SIDE
"""Cells of the square on which outlines are compared."""
MIN_INSIDE, MIN_ON_SIDE, MIN_KEPT = 0.6, 0.6, 0.35
"""Shares of a region's area: in the thorax, on its side, left after clipping."""
MAX_SHARE: Mapping[str, float] = {
    "lung_nodule": 0.06,
    "granuloma": 0.06,
    "fracture": 0.12,
    "lung_mass": 0.25,
    "atelectasis": 0.5,
    "cardiomegaly": 0.75,
    "enlarged_cardiac_silhouette": 0.75,
    "edema": 1.0,
}
"""Finding → largest area of a region as a share of both lungs' area (these include the heart)."""
USUAL_MAX_SHARE = 0.6
"""Of what is not named above: one lung, and a little more."""
MAX_OFF_SQUARE = 0.02
"""Of a pixel's height against its width: less moves an outline by less than it is coarse."""
DEVICE_REACH: Mapping[str, frozenset[str]] = {
    "endotracheal_tube": frozenset({"above"}),
    "feeding_tube": frozenset({"above", "below"}),
    "central_line": frozenset({"above", "beside"}),
    "pacemaker": frozenset({"above", "beside"}),
    "chest_tube": frozenset({"beside"}),
}
"""Device → where it may lie beside the thorax: over it towards the neck, under it in the abdomen, beside it."""
KEEPS_SIDE = frozenset({"chest_tube"})
"""Devices whose tip lies on the side that they are named by."""
_MARGINS: Mapping[str, float] = {"lung": 0.015, "pleura": 0.03}
_THORAX_MARGIN = 0.05
"""Shares of the square by which lungs and thorax are widened: outlines are coarse, and ribs lie outside the lungs."""
_HEART_COLUMNS, _HEART_ROWS = (-0.25, 0.5), (0.3, 1.05)
"""Of the thorax' width from the midline, and of the lungs' height: where a heart of any size lies."""
_FILMS_KEPT = 16
"""Fields of a kind that are kept from one region to the next, of 37 kB each; they are never written to."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionFilm:
    """An image and the lungs that were found on it, None where they were not."""

    image: DisplayImage
    lungs: LungFields | None


def films_of(
    current: DisplayImage, prior: DisplayImage | None, roles: Collection[ImageRole] = tuple(ImageRole)
) -> dict[ImageRole, RegionFilm]:
    """The images of these roles with the lungs that are found on them. Takes about 20 ms for each."""
    images = {ImageRole.CURRENT: current, ImageRole.PRIOR: prior}
    return {
        role: RegionFilm(image=image, lungs=find_lungs(image))
        for role, image in images.items()
        if image is not None and role in roles
    }


def marked_roles(prediction: Prediction) -> frozenset[ImageRole]:
    """The images of a pair on which the prediction has regions."""
    return frozenset(region.role for finding in prediction.findings for region in finding.regions)


def with_fitting_regions(
    prediction: Prediction, films: Mapping[ImageRole, RegionFilm]
) -> tuple[Prediction, tuple[DroppedRegion, ...]]:
    """The prediction with the regions that obey rule 4, clipped, and those that do not."""
    dropped: list[DroppedRegion] = []
    findings = []
    for finding in prediction.findings:
        kept: list[Region] = []
        for region in finding.regions:
            film = films.get(region.role)
            fitting = RegionFault.LUNGS_NOT_FOUND if film is None else fitting_region(finding, region, film)
            if isinstance(fitting, RegionFault):
                dropped.append(DroppedRegion(finding=finding.key, role=region.role, fault=fitting))
            else:
                kept.append(fitting)
        findings.append(replace(finding, regions=tuple(kept)))
    return replace(prediction, findings=tuple(findings)), tuple(dropped)


def fitting_region(finding: Finding, region: Region, film: RegionFilm) -> Region | RegionFault:
    """The region as it may be drawn, or why it may not."""
    if abs(film.image.geometry.pixel_aspect - 1.0) > MAX_OFF_SQUARE:
        return RegionFault.NOT_SQUARE
    if film.lungs is None:
        return RegionFault.LUNGS_NOT_FOUND
    lungs = film.lungs
    # All on a coarse raster: shares of an area need no full resolution.
    outline = _raster_of(region.points, film.image)
    area = float(outline.sum())
    reach = _thorax(lungs)
    reach = reach if finding.key not in DEVICE_REACH else reach | _around(reach, DEVICE_REACH[finding.key])
    if area == 0 or float((outline & reach).sum()) < MIN_INSIDE * area:
        return RegionFault.OUTSIDE
    side = region_side(finding)
    half = _half(lungs, side)
    if float((outline & half).sum()) < MIN_ON_SIDE * area:
        return RegionFault.WRONG_SIDE
    site = ontology().findings[finding.key].site if finding.key in ontology().findings else "chest"
    # The largest piece only: clipping may cut a region in several, and one outline is drawn.
    clipped = _largest(outline & _site_field(lungs, site) & half)
    if float(clipped.sum()) < MIN_KEPT * area:
        return RegionFault.OUTSIDE
    whole = float(_both_lungs(lungs).sum())
    if float(clipped.sum()) > MAX_SHARE.get(finding.key, USUAL_MAX_SHARE) * whole:
        return RegionFault.TOO_LARGE
    if clipped.sum() == area:
        return region
    return replace(region, points=_polygon(clipped, film.image))


def region_side(finding: Finding) -> str | None:
    """The side that the finding's regions must lie on; None where its sentence names none, or not that of the tip."""
    return side_of(finding.location) if finding.key not in DEVICE_REACH or finding.key in KEEPS_SIDE else None


def half_of(lungs: LungFields, image: DisplayImage, points: Sequence[tuple[float, float]]) -> float:
    """Share of an outline (stored pixels) that lies on the patient's left of the midline, 0..1."""
    outline = _raster_of(points, image)
    return float((outline & _half(lungs, "left")).sum()) / max(float(outline.sum()), 1.0)


def _raster_of(points: Sequence[tuple[float, float]], image: DisplayImage) -> Mask:
    """The cells that an outline in stored pixels covers."""
    plane = Image.new("1", (RASTER, RASTER))
    cells = [stored_to_square(image.geometry, RASTER, column, row) for column, row in points]
    ImageDraw.Draw(plane).polygon(cells, fill=1)
    return np.asarray(plane, dtype=bool)


def _fine(mask: Mask) -> Mask:
    """The segmenter's cells on the finer raster, smoothed."""
    from scipy import ndimage  # a fifth of a second, which listings need not wait for

    wide = mask.astype(np.float32).repeat(RASTER // SIDE, axis=0).repeat(RASTER // SIDE, axis=1)
    smooth: Mask = ndimage.gaussian_filter(wide, RASTER / SIDE / 2) > 0.5
    return smooth


def _widen(mask: Mask, share: float) -> Mask:
    """The mask and everything within `share` of the square's side from it.

    A dilation by a disk, one row of the disk at a time: a distance transform, which says the same, takes more than
    twice as long.
    """
    reach = share * RASTER
    most = int(reach)
    # Along each row the number of cells before a column: a span has cells of the mask where it grows.
    before = np.cumsum(np.pad(mask, ((most, most), (most + 1, most))), axis=1, dtype=np.int32)
    near = np.zeros_like(mask)
    for down in range(-most, most + 1):
        aside = int((reach**2 - down**2) ** 0.5)
        rows = before[most + down : most + down + RASTER]
        near |= rows[:, most + aside + 1 :][:, :RASTER] > rows[:, most - aside :][:, :RASTER]
    return near


@lru_cache(maxsize=_FILMS_KEPT)
def _both_lungs(lungs: LungFields) -> Mask:
    """Both lungs on the finer raster."""
    return _fine(lungs.right | lungs.left)


@lru_cache(maxsize=_FILMS_KEPT)
def _half(lungs: LungFields, side: str | None) -> Mask:
    """The patient's left or right half of the square; all of it where no one side is named."""
    rows, columns = np.mgrid[0:RASTER, 0:RASTER]
    scale = RASTER / SIDE
    midline = (lungs.midline[0] * (rows + 0.5) / scale + lungs.midline[1]) * scale
    # The patient's left is on the right of the film.
    if side == "left":
        return np.asarray(columns + 0.5 >= midline, dtype=bool)
    if side == "right":
        return np.asarray(columns + 0.5 <= midline, dtype=bool)
    return np.ones((RASTER, RASTER), dtype=bool)


@lru_cache(maxsize=_FILMS_KEPT)
def _thorax(lungs: LungFields) -> Mask:
    """The convex hull of both lungs, a little widened."""
    from scipy.spatial import ConvexHull

    both = _both_lungs(lungs)
    points = np.argwhere(both)
    corners = points[ConvexHull(points).vertices]
    plane = Image.new("1", (RASTER, RASTER))
    ImageDraw.Draw(plane).polygon([(float(column), float(row)) for row, column in corners], fill=1)
    return _widen(np.asarray(plane, dtype=bool), _THORAX_MARGIN)


def _around(thorax: Mask, where: frozenset[str]) -> Mask:
    """The fields over, under and beside the thorax that are named."""
    rows, columns = np.flatnonzero(thorax.any(axis=1)), np.flatnonzero(thorax.any(axis=0))
    field = np.zeros_like(thorax)
    if "above" in where:
        field[: rows[0] + 1, columns[0] : columns[-1] + 1] = True
        # The neck: above the middle of the thorax, between the quarters of its width; tubes and lines come in there.
        field[: rows[len(rows) // 2], columns[len(columns) // 4] : columns[3 * len(columns) // 4]] = True
    if "below" in where:
        field[rows[len(rows) // 2] :, columns[0] : columns[-1] + 1] = True
    if "beside" in where:
        field[: rows[-1] + 1, :] = True
    return field


@lru_cache(maxsize=_FILMS_KEPT)
def _site_field(lungs: LungFields, site: str) -> Mask:
    """Where a finding of this site can lie."""
    if site in _MARGINS:
        return _widen(_both_lungs(lungs), _MARGINS[site])
    if site != "heart":
        return np.ones((RASTER, RASTER), dtype=bool)
    both = _both_lungs(lungs)
    height, width = np.flatnonzero(both.any(axis=1)), np.flatnonzero(both.any(axis=0))
    rows, columns = np.mgrid[0:RASTER, 0:RASTER]
    scale = RASTER / SIDE
    aside = columns - (lungs.midline[0] * rows / scale + lungs.midline[1]) * scale
    down = (rows - height[0]) / max(len(height), 1)
    across = aside / max(len(width), 1)
    inside = (across >= _HEART_COLUMNS[0]) & (across <= _HEART_COLUMNS[1])
    return np.asarray(inside & (down >= _HEART_ROWS[0]) & (down <= _HEART_ROWS[1]), dtype=bool)


def _largest(mask: Mask) -> Mask:
    from scipy import ndimage  # a fifth of a second, which listings need not wait for

    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])), dtype=bool)


def _polygon(mask: Mask, image: DisplayImage) -> tuple[tuple[float, float], ...]:
    """A closed outline in stored pixels around each row's first and last cell, down one side and up the other."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = np.argmax(mask[rows], axis=1)
    last = RASTER - np.argmax(mask[rows, ::-1], axis=1)
    # Some two dozen points on each side: more would make the SR long and the line no better.
    step = max(len(rows) // 24, 1)
    places = sorted({*range(0, len(rows), step), len(rows) - 1})
    down = [(float(first[row]), float(rows[row] + (row == places[-1]))) for row in places]
    up = [(float(last[row]), float(rows[row] + (row == places[-1]))) for row in reversed(places)]
    points = [square_to_stored(image, RASTER, x, y) for x, y in (*down, *up)]
    return (*points, points[0])
