"""`doctor` speaks of the open door."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.cli.doctor.command import _open_door
from dicom_node.cli.doctor.machine_checks import Grade
from dicom_node.config import Settings


def test_doctor_warns_while_anybody_may_store_and_query() -> None:
    check = _open_door(Settings())
    assert check.grade is Grade.WARNING
    assert "store and query" in check.text


@pytest.mark.parametrize(
    "sections",
    [{"access": {"addresses": ["10.0.0.0/8"]}}, {"receive": {"unnamed_store": False, "unnamed_query": False}}],
)
def test_closed_door_is_good(sections: dict[str, Any]) -> None:
    assert _open_door(Settings(**sections)).grade is Grade.GOOD
