"""Processes that must stay small load no heavy library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import ANY_DISK

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


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("dicom_node.cli", ("pydantic", "rich.console", "sqlalchemy", "torch")),
        ("dicom_node.__main__", ("dicom_node.cli", "typer")),
        ("dicom_node.runtime.supervisor", ("numpy", "pydicom", "pynetdicom", "starlette", "torch")),
        ("dicom_node.runtime.child_mains", ("apscheduler", "dicom_node.serving", "numpy", "pydicom", "torch")),
        ("dicom_node.receive.listeners", ("dicom_node.receive.receiver", "pydicom", "pynetdicom", "sqlalchemy")),
        ("dicom_node.receive.receiver", ("dicom_node.serving", "highdicom", "jinja2", "starlette", "torch")),
        ("dicom_node.analysis.files", ("scipy", "torch", "transformers")),
        ("dicom_node.web.server", ("authlib", "dicomweb_client", "highdicom", "joserfc", "torch")),
        ("dicom_node.analysis.job", ("dicomweb_client", "torch")),
        ("model.images.sandbox_main", ("dicom_node", "requests", "scipy", "torch", "tqdm")),
        ("dicom_node.feedback.reports.job", ("highdicom", "httpx", "torch")),
    ],
)
def test_a_process_imports_nothing_of_what_others_do(module: str, unused: tuple[str, ...]) -> None:
    """`serve` is ready once each of its processes has imported what it needs; a receiver stays under 400 MiB."""
    code = f"import {module}, json, sys; print(json.dumps([name for name in {unused!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []


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
    (tmp_path / "node.toml").write_text(f'[node]\ndata_dir = "data"\n{ANY_DISK}')
    line = [sys.executable, "-c", _RUN, *command.split()]
    done = subprocess.run(line, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = set(json.loads(done.stderr.splitlines()[-1]))
    assert not modules.intersection({*HEAVY, *also_not})
    assert len(modules) <= most
