"""Shell completion: commands, their subcommands and options, through the door that the shells use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def completions(words: str) -> list[str]:
    """The answers to bash for the last of the words."""
    surroundings = {
        **os.environ,
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "_DICOM_NODE_COMPLETE": "complete_bash",
    }
    program = str(Path(sys.executable).with_name("dicom-node"))
    return subprocess.run([program], env=surroundings, capture_output=True, text=True, check=False).stdout.split()


@pytest.mark.parametrize(
    ("words", "some"),
    [
        ("dicom-node st", {"status", "store", "studies"}),
        ("dicom-node models pro", {"promote"}),
        ("dicom-node echo --c", {"--config"}),
    ],
)
def test_words_are_completed(words: str, some: set[str]) -> None:
    assert set(completions(words)) == some
