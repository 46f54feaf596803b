"""Drawing of regions: colours, line styles and positions of labels."""

from __future__ import annotations

import dataclasses
import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.report.render.marks import (
    LINE_STYLES,
    MIN_BRIGHTNESS,
    Box,
    finding_colour,
    place_labels,
    strokes,
)
from dicom_node.report.render.pair_picture import LINE, MARGIN, draw_pair
from dicom_node.report.render.shown import Caption, Outline, shown_report
from model.ontology import ontology
from model.schema import Change, ImageRole
from tests.support.report_cases import BOX, kinds

BOUNDS: Box = (0.0, 0.0, 400.0, 300.0)
_numbers = st.floats(min_value=-50, max_value=450, allow_nan=False)
_labels = st.lists(
    st.tuples(st.floats(10, 200), st.floats(10, 30), st.tuples(_numbers, _numbers, _numbers, _numbers)), max_size=12
)


def test_every_finding_has_a_colour_of_its_own_that_is_readable_on_black() -> None:
    colours = [finding_colour(key) for key in ontology().findings]
    assert len(set(colours)) == len(colours)
    for red, green, blue in colours:
        assert (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255 >= MIN_BRIGHTNESS - 0.01


def test_findings_of_the_demonstration_are_far_apart_in_colour() -> None:
    keys = list(ontology().findings)[:13]
    assert min(math.dist(finding_colour(a), finding_colour(b)) for a, b in combinations(keys, 2)) > 35


def test_every_change_has_a_line_style_of_its_own() -> None:
    styles = [LINE_STYLES[change] for change in Change]
    assert len(set(styles)) == len(styles)


def test_finding_that_the_vocabulary_lacks_has_a_steady_colour() -> None:
    assert finding_colour("unheard_of") == finding_colour("unheard_of")


def test_unbroken_line_is_its_own_segments_and_a_dashed_one_covers_its_share() -> None:
    square = [(0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (0.0, 100.0), (0.0, 0.0)]
    assert sum(math.dist(a, b) for a, b in strokes(square, ())) == 400
    dashed = sum(math.dist(a, b) for a, b in strokes(square, (6, 4)))
    assert math.isclose(dashed, 240)


@given(_labels)
def test_labels_lie_inside_the_bounds_and_over_no_other(wanted: list[tuple[float, float, Box]]) -> None:
    placed: list[Box] = []
    for (width, height, _), corner in zip(wanted, place_labels(wanted, BOUNDS), strict=True):
        if corner is None:
            continue
        x, y = corner
        assert x >= 0
        assert y >= 0
        assert x + width <= 400 + 1e-6
        assert y + height <= 300 + 1e-6
        for left, top, right, bottom in placed:
            assert x + width <= left or right <= x or y + height <= top or bottom <= y
        placed.append((x, y, x + width, y + height))


def test_dozen_labels_of_one_region_all_find_a_place() -> None:
    corners = place_labels([(120.0, 20.0, (150.0, 100.0, 200.0, 150.0))] * 12, BOUNDS)
    assert None not in corners


@pytest.mark.parametrize("name", ["new", "no prior"])
def test_long_german_labels_and_captions_stay_inside_the_picture(name: str) -> None:
    """A mark on every pixel's border would show as a coloured last column."""
    long = dataclasses.replace(kinds()[name], language="de")
    shown = shown_report(long)
    outline = Outline(role=ImageRole.CURRENT, finding="edema", change=None, label="Überlänge " * 40, points=BOX)
    caption = Caption(text="Überlänge " * 60, finding="edema")
    drawn = draw_pair(
        dataclasses.replace(shown, outlines=(outline,), captions=(caption, *shown.captions)),
        prior=None,
        current=long.current.image,
    )
    pixels = np.asarray(drawn)
    assert not (pixels[:, -MARGIN // 2 :] == finding_colour("edema")).all(-1).any()
    assert drawn.height > draw_pair(shown, prior=None, current=long.current.image).height + 3 * LINE
