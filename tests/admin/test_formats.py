"""Values as people read them."""

from __future__ import annotations

import pytest

from dicom_node.admin.formats import amount


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((0, "job"), "0 jobs"),
        ((1, "job"), "1 job"),
        ((2, "job"), "2 jobs"),
        ((1, "study", "studies"), "1 study"),
        ((3, "delivery is", "deliveries are"), "3 deliveries are"),
    ],
)
def test_one_thing_has_no_plural(words: tuple[int, str], expected: str) -> None:
    assert amount(*words) == expected
