"""Documents that are made from the program are current."""

from __future__ import annotations

import runpy
import sys

import pytest

from tests.support.common import REPOSITORY

SCRIPTS = ["conformance_statement", "command_reference", "recipe_reference", "model_card"]


@pytest.mark.parametrize("script", [f"make_{name}.py" for name in SCRIPTS])
def test_a_generated_document_is_current(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(REPOSITORY / "scripts" / script)
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", [path, "--check"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(path, run_name="__main__")
    assert ended.value.code == 0, capsys.readouterr().err
