"""docs/robustness.md names tests that are there."""

from __future__ import annotations

import re

from tests.support.common import REPOSITORY

LETTERS = ("spoofing", "tampering", "repudiation", "information disclosure", "denial of service", "elevation")


def test_every_row_names_a_test_that_exists() -> None:
    text = (REPOSITORY / "docs" / "robustness.md").read_text("utf-8")
    files = {path: path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py")}
    functions = {name for source in files.values() for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| what", "| kind"))]
    assert len(rows) > 25
    for row in rows:
        last = row.rstrip("| ").rpartition("|")[2]
        named = [part for quoted in re.findall(r"`([^`]+)`", last) for part in quoted.split("::")]
        assert named, row
        for one in named:
            assert (REPOSITORY / one).exists() if one.startswith("tests/") else one in functions, one
    threats = text.partition("## Threat model")[2]
    assert all(f"| {letter}" in threats for letter in LETTERS)
