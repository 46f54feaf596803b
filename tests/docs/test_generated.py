"""Documents that are made from the program are current."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.common import REPOSITORY

SCRIPTS = ["conformance_statement", "command_reference", "recipe_reference", "model_card"]


@pytest.mark.parametrize("script", [f"make_{name}.py" for name in SCRIPTS])
def test_a_generated_document_is_current(script: str) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / script), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr
