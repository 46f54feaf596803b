"""Imports go downward only: dicom_node → training → model (DESIGN.md, the house)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import REPOSITORY

FORBIDDEN = {"model": {"training", "dicom_node"}, "training": {"dicom_node"}, "dicom_node": set()}
MAY_IMPORT_TRAINING = {
    "dicom_node/cli/training/train.py",
    "dicom_node/cli/training/train_run.py",
    "dicom_node/cli/training/models.py",
    "dicom_node/demo/run.py",
}
"""The training commands, and the demonstration that makes its own synthetic studies."""


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_imports_go_downward_only(package: str) -> None:
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(REPOSITORY)): sorted(bad)
        for path in files
        if (bad := _imported(path) & FORBIDDEN[package])
    }
    assert not wrong


def test_only_the_training_commands_reach_training() -> None:
    users = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "dicom_node").rglob("*.py")
        if "training" in _imported(path)
    }
    assert {path for path in users if not path.startswith("dicom_node/retrain/")} <= MAY_IMPORT_TRAINING


@pytest.mark.parametrize("module", ["dicom_node.receive", "dicom_node.runtime.supervisor", "dicom_node.cli"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    """A receiver process stays under 400 MiB, and the command line answers at once."""
    code = f"import {module}, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
