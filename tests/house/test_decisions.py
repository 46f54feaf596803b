"""Decision records are numbered without a gap, listed in their index, and cited by numbers that exist."""

from __future__ import annotations

import re
import subprocess

from tests.support.common import REPOSITORY

FOLDER = REPOSITORY / "docs/adr"
RECORDS = sorted(path.name for path in FOLDER.glob("[0-9]*.md"))


def test_records_are_numbered_without_a_gap_and_listed() -> None:
    assert [name[:4] for name in RECORDS] == [f"{number:04d}" for number in range(1, len(RECORDS) + 1)]
    listed = re.findall(r"^\| \[(\d{4})\]\((\S+)\) \|", (FOLDER / "README.md").read_text("utf-8"), re.MULTILINE)
    assert listed == [(name[:4], name) for name in RECORDS], "give each record its line in docs/adr/README.md"


def test_a_cited_record_exists() -> None:
    files = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.toml"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    ).stdout.split()
    missing = {
        f"{file}: {number}"
        for file in files
        if (REPOSITORY / file).is_file()
        for number in re.findall(r"\badr/(\d{4})", (REPOSITORY / file).read_text("utf-8"))
        if not any(name.startswith(number) for name in RECORDS)
    }
    assert not missing
