"""docs/tutorials/train-in-five-minutes.md as it stands, each command in its order, with fewer pairs and steps."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from dicom_node.cli import app
from dicom_node.config import load_settings
from dicom_node.serving.promotion import candidates
from model.checkpoints.manifest import read_manifest
from tests.docs.commands import blocks_of
from tests.support.common import REPOSITORY

PAGE = REPOSITORY / "docs" / "tutorials" / "train-in-five-minutes.md"
SMALLER = {"--pairs": "16", "--calibration": "phantom:3@8000000", "--test": "phantom:2", "--data": "phantom:2"}


def smaller(words: list[str], recipe: Path) -> list[str]:
    """The same command on less: fewer pairs, steps and processes, and no lower bound on what was taught."""
    words = [SMALLER.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    words = [str(recipe) if word == "training/recipes/tiny.toml" else word for word in words]
    more = {"finish": ["--fewest", "1"], "evaluate": ["--processes", "1"]}
    return [*words, *(option for word in words for option in more.get(word, ()))]


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one command in this process, so that torch is imported once."""
    if words[0] == "export":
        monkeypatch.setenv(*words[1].split("=", 1))
    elif words[0] == "mkdir":
        Path(words[-1]).mkdir(parents=True)
    elif words[:2] == ["python", "-m"]:
        monkeypatch.setattr(sys, "argv", words[2:])
        with pytest.raises(SystemExit) as end:
            runpy.run_module(words[2], run_name="__main__")
        assert end.value.code in (0, None), words
    else:
        assert words[0] == "dicom-node", words
        app(words[1:], standalone_mode=False)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_each_command_of_the_page_does_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "few-steps.toml"
    text = (REPOSITORY / "training" / "recipes" / "tiny.toml").read_text("utf-8")
    recipe.write_text(re.sub(r"steps = \d+", "steps = 4", text, count=1), "utf-8")
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(PAGE):
        if block.marker == "tested":
            for line in block.commands:
                run(smaller(shlex.split(line), recipe), monkeypatch)
    assert (tmp_path / "tiny" / "evaluation" / "evaluation.html").exists()
    settings = load_settings(tmp_path / "tiny" / "config.toml")
    answering = candidates(settings, settings.node.data_dir / "models")[0]
    assert answering.folder == "tiny-1"
    manifest = read_manifest(Path(answering.source))
    assert (manifest.name, manifest.version) == ("tiny", "1")
    assert manifest.findings
