"""`dicom-node` run to its end in this process, whose libraries are imported already; a process takes seconds for that.

For tests of what a command says and does. Tests of what a process imports, how it starts or is killed start one.
"""

from __future__ import annotations

import gc
import io
import logging
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from dicom_node import cli
from dicom_node.cli import common


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A command that has ended, with the names of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run_command(*arguments: str, folder: Path) -> Ended:
    """Run a command in a folder, as on a terminal of 80 columns, without a configuration named by the environment.

    An exception that the command line does not map, which would be a traceback there, goes through.
    """
    surroundings = {name: value for name, value in os.environ.items() if name != "DICOM_NODE_CONFIG"}
    status: int | str | None = 0
    root = logging.getLogger()
    handlers = list(root.handlers)
    with (
        chdir(folder),
        patch.dict(os.environ, surroundings | {"COLUMNS": "80"}, clear=True),
        patch.object(sys, "argv", ["dicom-node", *arguments]),
        patch.object(common, "_has_printed_json", False),
        patch.object(gc, "freeze"),  # this process goes on: what a command has left is garbage
        redirect_stdout(_stream()) as out,
        redirect_stderr(_stream()) as err,
    ):
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code
        finally:
            gc.enable()
            root.handlers[:] = handlers  # a command logs to its own standard error
            logging.captureWarnings(False)  # pytest has its own way with warnings
    return Ended(returncode=int(status or 0), stdout=_text(out), stderr=_text(err))


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()
