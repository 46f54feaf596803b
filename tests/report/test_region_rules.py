"""Rule 4: a region that is drawn agrees with its sentence; one that does not is dropped, and the report says so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from dicom_node.report.dropped_regions import RegionFault
from dicom_node.report.region_rules import (
    RASTER,
    RegionFilm,
    _widen,
    films_of,
    fitting_region,
    half_of,
    marked_roles,
    with_fitting_regions,
)
from dicom_node.report.render.text import as_text
from model.checks.frontal_view import SIDE
from model.checks.lung_fields import LungFields
from model.schema import (
    Change,
    DisplayImage,
    Finding,
    ImageRole,
    ModelIdentity,
    Prediction,
    Presence,
    Region,
    SourceGeometry,
)
from tests.support.report_cases import finding, prediction, request

SIZE = 640
"""Pixels of the square example image: ten for each cell of the segmenter."""


def _lungs(shift: int = 0) -> LungFields:
    """Two upright rectangles with a gap in the middle, moved to the right by some cells."""
    right, left = (np.zeros((SIDE, SIDE), dtype=bool) for _ in range(2))
    right[10:50, 8 + shift : 28 + shift] = True
    left[10:50, 36 + shift : 56 + shift] = True
    return LungFields(right=right, left=left, midline=(0.0, 32.0 + shift), confidence=0.99)


def _film(shift: int = 0) -> RegionFilm:
    geometry = SourceGeometry(rows=SIZE, columns=SIZE, top=0, left=0, height=SIZE, width=SIZE)
    image = DisplayImage(pixels=np.zeros((SIZE, SIZE), dtype=np.float32), geometry=geometry)
    return RegionFilm(image=image, lungs=_lungs(shift))


def _box(left: float, top: float, right: float, bottom: float) -> Region:
    points = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
    return Region(role=ImageRole.CURRENT, points=points, method="outline head")


PATIENTS_RIGHT, PATIENTS_LEFT = _box(100, 200, 220, 300), _box(400, 200, 520, 300)


@pytest.mark.parametrize(
    ("key", "location", "region", "fault"),
    [
        ("pneumothorax", "left", PATIENTS_LEFT, None),
        ("pneumothorax", "left", PATIENTS_RIGHT, RegionFault.WRONG_SIDE),
        ("pneumothorax", "right apical", PATIENTS_RIGHT, None),
        ("pneumothorax", "right", PATIENTS_LEFT, RegionFault.WRONG_SIDE),
        ("pleural_effusion", "bilateral", PATIENTS_LEFT, None),
        ("pleural_effusion", None, PATIENTS_RIGHT, None),
        ("consolidation", "left", _box(560, 560, 640, 640), RegionFault.OUTSIDE),
        ("lung_nodule", "right", _box(90, 110, 270, 490), RegionFault.TOO_LARGE),
        ("consolidation", "right", _box(90, 110, 270, 490), None),
        ("cardiomegaly", None, _box(250, 300, 480, 500), None),
        ("cardiomegaly", None, _box(90, 110, 200, 200), RegionFault.OUTSIDE),
        ("chest_tube", "left", PATIENTS_RIGHT, RegionFault.WRONG_SIDE),
        ("chest_tube", "left", _box(570, 250, 630, 350), None),
        ("endotracheal_tube", None, _box(300, 5, 340, 90), None),
        ("feeding_tube", None, _box(340, 530, 420, 630), None),
        ("endotracheal_tube", None, _box(340, 550, 420, 630), RegionFault.OUTSIDE),
        ("central_line", "left", _box(260, 150, 310, 330), None),
        ("pleural_effusion", "left", _box(340, 560, 420, 635), RegionFault.OUTSIDE),
    ],
)
def test_a_region_agrees_with_its_sentence_or_is_not_drawn(
    key: str, location: str | None, region: Region, fault: RegionFault | None
) -> None:
    fitting = fitting_region(finding(key, location=location), region, _film())
    assert (fitting if isinstance(fitting, RegionFault) else None) is fault


def test_the_side_is_told_by_the_patients_midline_and_not_by_the_pictures_centre() -> None:
    """On a film that shows the patient far to the left, a region left of the picture's centre may be a left one."""
    region, said = _box(260, 200, 310, 300), finding("pneumothorax", location="left")
    assert fitting_region(said, region, _film(shift=0)) is RegionFault.WRONG_SIDE
    shifted = fitting_region(said, region, _film(shift=-7))
    assert isinstance(shifted, Region)


def test_an_outline_is_clipped_to_the_lung_of_its_side() -> None:
    straddling = _box(330, 200, 620, 300)
    fitting = fitting_region(finding("consolidation", location="left"), straddling, _film())
    assert isinstance(fitting, Region)
    columns = [column for column, _ in fitting.points]
    assert min(columns) > 335
    assert max(columns) < 585
    assert fitting.points[0] == fitting.points[-1]
    assert half_of(_lungs(), _film().image, fitting.points) == 1.0


@pytest.mark.parametrize(("aspect", "is_drawn"), [(1.0, True), (1.01, True), (0.82, False), (1.22, False)])
def test_nothing_is_drawn_where_viewers_would_show_it_beside_its_place(aspect: float, is_drawn: bool) -> None:
    film = _film()
    geometry = dataclasses.replace(film.image.geometry, pixel_aspect=aspect)
    film = dataclasses.replace(film, image=dataclasses.replace(film.image, geometry=geometry))
    said = prediction(finding("pneumothorax", Change.NEW, location="left", regions=(PATIENTS_LEFT,)))
    checked, dropped = with_fitting_regions(said, {ImageRole.CURRENT: film})
    assert bool(checked.finding("pneumothorax").regions) is is_drawn
    assert [one.fault for one in dropped] == ([] if is_drawn else [RegionFault.NOT_SQUARE])
    for language, words in (("en", "are not square"), ("de", "nicht quadratisch")):
        text = " ".join(as_text(request(checked, dropped_regions=dropped, language=language)).split())
        assert (words in text) is not is_drawn


def test_without_lungs_nothing_is_drawn_and_the_report_says_why() -> None:
    said = prediction(finding("pneumothorax", Change.NEW, location="left", regions=(PATIENTS_LEFT,)))
    film = dataclasses.replace(_film(), lungs=None)
    checked, dropped = with_fitting_regions(said, {ImageRole.CURRENT: film})
    assert checked.finding("pneumothorax").regions == ()
    assert [one.fault for one in dropped] == [RegionFault.LUNGS_NOT_FOUND]
    for language, words in (("en", "the lungs were not found"), ("de", "Die Lungen wurden im Bild nicht gefunden")):
        text = " ".join(as_text(request(checked, dropped_regions=dropped, language=language)).split())
        assert words in text


def test_what_is_not_stated_is_not_told_of_its_region_either() -> None:
    said = prediction(finding("pneumothorax", probability=0.4, location="left", regions=(PATIENTS_RIGHT,)))
    checked, dropped = with_fitting_regions(said, {ImageRole.CURRENT: _film()})
    assert len(dropped) == 1
    assert "not drawn" not in as_text(request(checked, dropped_regions=dropped))


def test_lungs_are_looked_for_only_on_films_that_bear_a_region() -> None:
    film = _film().image
    marked = Finding(key="pneumothorax", presence=Presence.PRESENT, probability=0.9, regions=(PATIENTS_LEFT,))
    answer = Prediction(findings=(marked,), model=ModelIdentity(name="m", version="1", device_uid="2.25.1"))
    assert marked_roles(answer) == {ImageRole.CURRENT}
    assert films_of(film, film, marked_roles(answer)).keys() == {ImageRole.CURRENT}
    assert films_of(film, None).keys() == {ImageRole.CURRENT}
    assert not films_of(film, film, marked_roles(dataclasses.replace(answer, findings=())))


@pytest.mark.parametrize("share", [0.015, 0.03, 0.05])
def test_a_widened_mask_is_all_within_the_distance(share: float) -> None:
    rng = np.random.default_rng(5)
    for density in (0.0005, 0.01, 0.3):
        mask = rng.random((RASTER, RASTER)) < density
        mask[0, 0] = mask[-1, RASTER // 2] = True
        near = ndimage.distance_transform_edt(~mask) <= share * RASTER
        assert (_widen(mask, share) == near).all()
    assert not _widen(np.zeros((RASTER, RASTER), dtype=bool), share).any()
