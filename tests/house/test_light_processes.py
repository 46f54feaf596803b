"""Processes that must stay small load no heavy library."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["dicom_node.receive", "dicom_node.runtime.supervisor", "dicom_node.cli"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    """A receiver process stays under 400 MiB, and the command line answers at once."""
    code = f"import {module}, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
