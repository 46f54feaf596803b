"""CITATION.cff follows the Citation File Format, and names the version of the program and of the changelog."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from tests.support.common import REPOSITORY


def test_the_citation_follows_its_format() -> None:
    check = str(Path(sys.executable).with_name("check-jsonschema"))
    command = [check, "--builtin-schema", "vendor.citation-file-format", str(REPOSITORY / "CITATION.cff")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_version_and_date_agree_everywhere() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text("utf-8"))
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    heading = re.search(
        r"^## (\d+\.\d+\.\d+) \((\d{4}-\d{2}-\d{2})\)$", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.M
    )
    assert heading is not None
    assert citation["version"] == version == heading[1]
    assert str(citation["date-released"]) == heading[2]
