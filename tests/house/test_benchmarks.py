"""Every benchmark starts as its Makefile target starts it, and every target names a script that exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.common import REPOSITORY

RECIPE = re.compile(r"^\t(?P<path>PYTHONPATH=\. )?(?:\$\(BIN\)/python )?(?P<words>(?:-m )?[\w./]+)(?: |$)")
MAKEFILE = (REPOSITORY / "Makefile").read_text("utf-8")
START_EACH = """
import os, runpy, sys
import numpy, pydicom, pynetdicom, sqlalchemy, torch  # once for all: each of them takes long
import dicom_node.analysis.study, dicom_node.report.documents
import model.predict, training.loop.train, training.phantom.dicom
installed = [path for path in sys.path if "site-packages" in path or "python3" in path]
for command in sys.argv[1:]:
    *extra, last = command.split()  # "PYTHONPATH=." and "-m" where the command has them
    sys.stdout.flush()
    child = os.fork()
    if not child:
        here = os.getcwd() if "-m" in extra else os.path.dirname(os.path.abspath(last))
        sys.path[:] = [here, *([os.getcwd()] if "PYTHONPATH=." in extra else []), *installed]
        sys.argv[:] = [last, "--help"]
        try:
            run = runpy.run_module if "-m" in extra else runpy.run_path
            run(last, run_name="__main__")
        except SystemExit as ended:
            sys.stdout.flush()
            os._exit(int(ended.code or 0))
        except BaseException as error:
            print(repr(error), flush=True)
        os._exit(70)  # it failed, or it took no notice of --help and ran
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(f"ended: {status} {command}", flush=True)
"""


def commands() -> Iterator[tuple[str, str]]:
    """Yield the target and the command of every line of the Makefile that starts a script or a module of ours."""
    target = ""
    for line in MAKEFILE.splitlines():
        if named := re.match(r"^([a-z][a-z-]*):", line):
            target = named[1]
        recipe = RECIPE.match(line)
        if recipe and re.match(r"-m |scripts/|benchmarks/", recipe["words"]):
            yield target, f"{recipe['path'] or ''}{recipe['words']}"


COMMANDS = tuple(commands())


@pytest.mark.parametrize(("target", "command"), COMMANDS)
def test_what_a_target_starts_exists(target: str, command: str) -> None:
    name = command.split()[-1]
    if "-m" in command.split():
        name = f"{name.replace('.', '/')}.py" if name.partition(".")[0] in ("benchmarks", "training") else "Makefile"
    assert (REPOSITORY / name).is_file(), f"make {target}"


def test_each_target_is_phony_and_each_phony_name_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert targets == set(phony[1].split())


def test_every_benchmark_starts_with_its_help() -> None:
    started = [command for _, command in COMMANDS if "benchmarks" in command]
    names = " ".join(started)
    untargeted = [
        f"PYTHONPATH=. benchmarks/{path.name}"
        for path in sorted((REPOSITORY / "benchmarks").glob("*.py"))
        if "__main__" in path.read_text("utf-8") and path.stem not in names
    ]
    assert len(started) >= 10, started
    done = subprocess.run(
        [sys.executable, "-c", START_EACH, *started, *untargeted],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr
    for command in (*started, *untargeted):
        assert f"ended: 0 {command}" in done.stdout, f"{command}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.count("usage: ") == len(started) + len(untargeted)
