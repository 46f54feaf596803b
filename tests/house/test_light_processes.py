"""Processes that must stay small load no heavy library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "transformers",
    "scipy",
    "highdicom",
    "fpdf",
    "fontTools",
    "numpy",
    "PIL",
    "pydicom",
    "pynetdicom",
    "starlette",
    "httpx",
    "training",
)
"""Packages that a command of the daily work must not import."""
_RUN = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
from dicom_node.cli import main
main()
"""


@pytest.mark.parametrize("module", ["dicom_node.receive", "dicom_node.runtime.supervisor", "dicom_node.cli"])
def test_light_modules_do_not_import_torch(module: str) -> None:
    """A receiver process stays under 400 MiB, and the command line answers at once."""
    code = f"import {module}, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("command", "most", "also_not"),
    [
        ("--version", 400, ("sqlalchemy", "pydantic")),
        ("--help", 450, ("sqlalchemy", "pydantic")),
        ("status --config node.toml", 900, ("requests", "apscheduler", "jinja2")),
    ],
)
def test_a_command_imports_no_more_than_it_needs(
    tmp_path: Path, command: str, most: int, also_not: tuple[str, ...]
) -> None:
    (tmp_path / "node.toml").write_text('[node]\ndata_dir = "data"\n')
    line = [sys.executable, "-c", _RUN, *command.split()]
    done = subprocess.run(line, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stderr.splitlines()[-1]))
    assert not modules.intersection({*HEAVY, *also_not})
    assert len(modules) <= most
