"""docs/hazards.md names tests that are there."""

from __future__ import annotations

import re

from tests.support.common import REPOSITORY


def test_every_test_of_the_table_exists() -> None:
    table = (REPOSITORY / "docs" / "hazards.md").read_text("utf-8")
    files = list((REPOSITORY / "tests").rglob("test_*.py"))
    functions = {
        name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    named = [part for quoted in re.findall(r"`([^`]+)`", table) for part in quoted.split("::")]
    folders = [one for one in named if one.startswith("tests/")]
    assert len(folders) > 10
    for one in folders:
        assert (REPOSITORY / one).exists(), one
    bare = [one for one in named if one.startswith("test_") and one.endswith(".py")]
    assert set(bare) <= {path.name for path in files}
    tests = {one for one in named if re.fullmatch(r"test_\w+", one)}
    assert len(tests) > 10
    assert tests <= functions, tests - functions
