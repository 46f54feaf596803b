"""The list of long files in tests/conftest.py names files that are there."""

from __future__ import annotations

from tests.conftest import LONGEST_FIRST
from tests.support.common import REPOSITORY


def test_each_long_file_is_there_and_named_once() -> None:
    assert [name for name in LONGEST_FIRST if not (REPOSITORY / name).is_file()] == []
    assert len(set(LONGEST_FIRST)) == len(LONGEST_FIRST)
