"""Percentages on the pages obey rule 2 of the reports: none that contradicts its word, none without calibration."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.admin.formats import change_percent, presence_percent


@pytest.mark.parametrize(
    ("finding", "presence", "change"),
    [
        ({"seen": "seen", "probability": 0.93, "change": "new", "change_probability": 0.8}, "93 %", "80 %"),
        ({"seen": "possible", "probability": 0.38}, "38 %", ""),
        ({"seen": "possible", "probability": 0.56}, "", ""),
        ({"seen": "not seen", "probability": 0.56}, "", ""),
        ({"seen": "no statement", "probability": 0.5}, "", ""),
        ({"seen": "seen", "probability": 0.9, "change": "not comparable", "change_probability": 0.41}, "90 %", ""),
        ({"seen": "seen", "probability": 0.9, "change": "new", "change_probability": 0.9, "calibrated": False}, "", ""),
        ({"probability": 0.2}, "20 %", ""),
    ],
)
def test_percentage_beside_a_finding(finding: dict[str, Any], presence: str, change: str) -> None:
    assert (presence_percent(finding), change_percent(finding)) == (presence, change)
