"""Labels of regions stand inside the image, over or under what they name, and none covers another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.report.label_positions import label_boxes

COLUMNS, ROWS = 500, 600
TEXTS = st.sampled_from(
    ["new pneumothorax L", "endotracheal tube", "larger pleural effusion both sides", "worse edema"]
)
REGIONS = st.tuples(st.floats(0, 400), st.floats(0, 500), st.floats(5, 100), st.floats(5, 100)).map(
    lambda box: ((box[0], box[1]), (box[0] + box[2], box[1]), (box[0] + box[2], box[1] + box[3]), (box[0], box[1]))
)


@given(labels=st.lists(st.tuples(TEXTS, REGIONS), max_size=8))
def test_labels_are_inside_and_apart(labels: list[tuple[str, tuple[tuple[float, float], ...]]]) -> None:
    boxes = label_boxes(labels, COLUMNS, ROWS)
    for number, box in enumerate(boxes):
        assert box.left >= 0
        assert box.top >= 0
        assert box.left + box.width <= COLUMNS + 1e-6
        assert box.top + box.height <= ROWS + 1e-6
        assert not any(box.overlaps(other) for other in boxes[:number])


@pytest.mark.parametrize(
    ("top", "bottom", "expected"), [(300.0, 400.0, "above"), (5.0, 400.0, "below"), (5.0, 595.0, "inside")]
)
def test_a_label_stands_over_or_under_its_region_in_the_same_half(top: float, bottom: float, expected: str) -> None:
    left_lung = ((320.0, top), (460.0, top), (460.0, bottom), (320.0, top))
    (box,) = label_boxes([("pneumothorax L:  new", left_lung)], COLUMNS, ROWS)
    assert box.left + box.width / 2 > COLUMNS / 2
    assert box.left < 460 < COLUMNS
    if expected == "above":
        assert box.top + box.height <= top + 1e-6
    elif expected == "below":
        assert box.top >= bottom
    else:
        assert top <= box.top < top + 1e-6


def test_wide_labels_of_both_lungs_stay_apart() -> None:
    lungs = [
        ((20.0, 300.0), (200.0, 300.0), (200.0, 500.0), (20.0, 300.0)),
        ((300.0, 300.0), (480.0, 300.0), (480.0, 500.0), (300.0, 300.0)),
    ]
    first, second = label_boxes(
        [("right basal consolidation: worse", lungs[0]), ("consolidation L:  new", lungs[1])], COLUMNS, ROWS
    )
    assert not first.overlaps(second)
