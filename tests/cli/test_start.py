"""The command line starts fast: a command imports what it needs and nothing that another one needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import ANY_DISK

HEAVY = {
    "accelerate",
    "alembic",
    "apscheduler",
    "dicomweb_client",
    "fpdf",
    "fontTools",
    "highdicom",
    "httpx",
    "numpy",
    "PIL",
    "pydicom",
    "pynetdicom",
    "requests",
    "scipy",
    "starlette",
    "torch",
    "transformers",
    "uvicorn",
}
"""Each takes a tenth of a second or more to import."""
FILE_LIBRARIES = {"pydantic", "sqlalchemy"}
"""Libraries that reading the settings and the index needs."""
UNUSED_PARTS = (
    "dicom_node.backfill.drive",
    "dicom_node.hl7",
    "dicom_node.index.tables.retrain",
    "dicom_node.serving.promotion",
    "dicom_node.storage.bucket",
    "model.checkpoints.manifest",
    "rich.console",
    "sqlalchemy.dialects.postgresql",
    "structlog",
)
"""Parts of the node and of libraries that a look at a node on SQLite without backfills needs none of."""


def surroundings() -> dict[str, str]:
    """The environment without a configuration that it names."""
    return {key: value for key, value in os.environ.items() if key != "DICOM_NODE_CONFIG"}


def imported_modules(*arguments: str, folder: Path) -> set[str]:
    """Run a command to its end; every module that it imported."""
    command = [sys.executable, "-X", "importtime", "-m", "dicom_node", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=surroundings())
    assert done.returncode == 0, done.stderr[-2000:]
    return set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))


def heavy(modules: set[str]) -> set[str]:
    """Those of the libraries above that are among the modules."""
    return {name.partition(".")[0] for name in modules} & (HEAVY | FILE_LIBRARIES | {"rich", "structlog"})


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and an index that has its tables."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "config.toml").write_text(ANY_DISK, "utf-8")
    imported_modules("db", "upgrade", folder=folder)
    return folder


@pytest.mark.parametrize(("argument", "limit"), [("--version", 400), ("--help", 500)])
def test_version_and_help_import_few_modules(tmp_path: Path, argument: str, limit: int) -> None:
    modules = imported_modules(argument, folder=tmp_path)
    assert heavy(modules) <= {"rich"}
    assert len(modules) <= limit


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [(("status",), 560), (("studies",), 560), (("jobs",), 560), (("jobs", "--json"), 560), (("db", "check"), 560)],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_daily_commands_import_what_they_need(node_folder: Path, arguments: tuple[str, ...], limit: int) -> None:
    modules = imported_modules(*arguments, folder=node_folder)
    assert heavy(modules) <= {*FILE_LIBRARIES, "rich"}  # of rich the widths of characters
    assert modules.isdisjoint(UNUSED_PARTS)
    assert len(modules) <= limit


LISTINGS = (["models", "list"], ["quarantine"], ["feedback", "list"], ["purge"], ["retry", "--all"])
_RUN_ALL = """
import json, sys
from dicom_node.cli import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["dicom-node", *words]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, words
print(json.dumps(sorted(sys.modules)))
"""


def test_no_listing_imports_torch(node_folder: Path) -> None:
    """One after the other in one process: what is not imported at the end none of them needs."""
    command = [sys.executable, "-c", _RUN_ALL, json.dumps(LISTINGS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=node_folder, env=surroundings())
    assert done.returncode == 0, done.stderr[-2000:]
    modules = set(json.loads(done.stdout.splitlines()[-1]))
    assert "dicom_node.cli.quarantine" in modules
    assert heavy(modules).isdisjoint({"torch", "transformers", "scipy"})


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_standard_streams_that_a_wrapper_closed_are_open_again(tmp_path: Path, closed: tuple[int, ...]) -> None:
    """Else the first socket of the node would be number 2, where libraries print."""
    code = (
        "import os, sys\n"
        f"for number in {closed}: os.close(number)\n"
        "from dicom_node.__main__ import open_standard_streams\n"
        "open_standard_streams()\n"
        f"names = [os.path.realpath(f'/proc/self/fd/{{number}}') for number in {closed}]\n"
        "open(sys.argv[1], 'w').write(' '.join(names))\n"
    )
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not list a process's descriptors in /proc")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "names")], check=True)
    assert (tmp_path / "names").read_text().split() == [os.devnull] * len(closed)
