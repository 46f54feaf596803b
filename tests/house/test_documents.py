"""Everything that the documents for developers name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.common import REPOSITORY

DOCUMENTS = [
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "docs/architecture.md",
    REPOSITORY / "docs/invariants.md",
    *sorted((REPOSITORY / "docs/howto").glob("*.md")),
]
PATH = re.compile(r"`((?:dicom_node|model|training|migrations|tests|scripts|docs)/[\w./*-]+)(?:::(\w+))?`")
EXAMPLES = re.compile(r"NAME|NNNN|test_name|xx\.toml")
"""Paths that the reader makes."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.name for path in DOCUMENTS])
def test_every_path_and_test_that_is_named_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    named = [(path, test) for path, test in PATH.findall(text) if not EXAMPLES.search(path)]
    assert named or "How to" in text
    missing = [path for path, _ in named if not list(REPOSITORY.glob(path.rstrip("/")))]
    assert not missing
    for path, test in named:
        if test:
            assert f"def {test}(" in (REPOSITORY / path).read_text("utf-8"), f"{path} has no {test}"
