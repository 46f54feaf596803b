"""Labels of regions stand inside the image, on the side of its centre, and none covers another."""

from __future__ import annotations

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


def test_a_label_stands_on_the_side_of_the_centre() -> None:
    left_lung = ((400.0, 300.0), (480.0, 300.0), (480.0, 400.0), (400.0, 300.0))
    right_lung = ((20.0, 300.0), (100.0, 300.0), (100.0, 400.0), (20.0, 300.0))
    first, second = label_boxes([("tube", left_lung), ("tube", right_lung)], COLUMNS, ROWS)
    assert first.left + first.width <= 400 + 1e-6
    assert second.left >= 100
