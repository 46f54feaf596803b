"""The command line as a person meets it: whole help of one style, lists that fit a terminal, errors that name."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dicom_node.cli import COMMANDS as TOP_COMMANDS
from dicom_node.cli import load_command
from dicom_node.cli.common import Row, print_rows
from tests.support.certificates import Authority
from tests.support.command_line import run_command


def _commands(command: Any, name: str = "") -> dict[str, Any]:
    """Every command by its words; typer's classes, which are click's only in some versions."""
    if not hasattr(command, "commands"):
        return {name: command}
    found: dict[str, Any] = {}
    for word, each in command.commands.items():
        found |= _commands(each, f"{name} {word}".strip())
    return found


COMMANDS = {name: each for top in TOP_COMMANDS for name, each in _commands(load_command(top), top).items()}


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    surroundings = {key: value for key, value in os.environ.items() if key != "DICOM_NODE_CONFIG"}
    return subprocess.run(
        [sys.executable, "-m", "dicom_node", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env=surroundings | {"COLUMNS": "80"},
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_says_what_it_is(name: str) -> None:
    command = COMMANDS[name]
    assert (command.help or "").strip().endswith((".", ")"))
    texts = [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
    swallowed = [text for text in texts if re.search(r"(?<![\\[])\[[a-z@#/]", text)]
    assert not swallowed, "typer reads [word] as a style and prints nothing: write \\\\["
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}"
        if parameter.param_type_name == "argument":
            assert re.fullmatch(r"[A-Z_]+|NAME\|off\|default|FILE\|STUDY_UID", parameter.metavar or ""), (
                f"{name} {parameter.name}"
            )


@pytest.mark.parametrize("name", TOP_COMMANDS)
def test_the_list_of_commands_shows_each_command_s_own_first_line(name: str) -> None:
    assert TOP_COMMANDS[name][1] == (load_command(name).help or "").split("\n\n")[0]


def test_an_unknown_command_is_refused_and_a_near_one_is_named(tmp_path: Path) -> None:
    done = run_command("statu", folder=tmp_path)
    assert done.returncode == 2
    assert "No such command 'statu'" in done.stderr
    assert "status" in done.stderr


def test_a_sentence_is_wrapped_and_a_uid_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("id",), [Row(cells=("1",), below=("word " * 30, "1." * 60))])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines[:-1])
    assert lines[-1] == "  " + "1." * 60


def test_brackets_of_a_help_text_are_shown(tmp_path: Path) -> None:
    shown = re.sub(r"[│\s]+", " ", run_command("retrain", "--help", folder=tmp_path).stdout)
    assert "that of [retrain] in the configuration" in shown


def test_it_says_its_version(tmp_path: Path) -> None:
    done = run("--version", folder=tmp_path)
    assert done.returncode == 0
    assert re.fullmatch(r"dicom-node \d+\.\d+\.\d+\n", done.stdout)


def test_a_list_cuts_no_uid_and_no_bracket(capsys: pytest.CaptureFixture[str]) -> None:
    uid = "2.25." + "1" * 59
    print_rows(
        ("date", "patient"), [Row(cells=("2026-02-09", "[b]Zhang, 小东"), below=(uid, "")), Row(cells=("", "x"))]
    )
    assert capsys.readouterr().out.splitlines() == [
        "date        patient",
        "2026-02-09  [b]Zhang, 小东",
        f"  {uid}",
        "            x",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("init", "nowhere/config.toml"), "nowhere: no such folder"),
        (("demo", "--beside", "nowhere"), "--beside nowhere: no such folder"),
        (("init", "."), ". is a folder; name the file to write, such as config.toml"),
        (("status",), "config.toml: no such file; make one with `dicom-node init`"),
        (("evaluate", "--data", "phantom:2", "--split", "tset", "--out", "."), "--split is one of all, dev,"),
        (("evaluate", "--data", "phantoms", "--out", "."), "--data 'phantoms' names no data set; write one of"),
        (("evaluate", "--data", "phantom:2", "--model", "nowhere", "--out", "."), "--model nowhere: there is no such"),
        (("models", "calibrate", "nowhere", "--data", "phantom:2"), "nowhere: there is no such folder"),
        (("predict", ".", "--model", "nowhere", "--out", "out"), "there is no folder 'nowhere'"),
        (("train", "run", "nowhere.toml", "--out", "out"), "nowhere.toml: no such file; recipes to copy lie in"),
    ],
)
def test_a_wrong_path_or_word_is_named_without_a_traceback(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = run_command(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_made_is_named_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    (tmp_path / "config.toml").write_text("[node]\nport = 0\n[web]\nport = 0\n")
    done = run("serve", folder=tmp_path)
    assert done.returncode == 1
    assert f"dicom-node: {tmp_path / 'data'}: File exists" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("key", ["node.port", "tls.port", "web.host, web.port"])
def test_a_port_that_is_taken_is_named_and_the_node_does_not_start(tmp_path: Path, key: str) -> None:
    certificate, private = Authority(tmp_path).issue("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = taken.getsockname()[1]
        ports = {"node.port": 0, "tls.port": 0, "web.host, web.port": 0} | {key: used}
        (tmp_path / "config.toml").write_text(
            f'[node]\nhost = "127.0.0.1"\nport = {ports["node.port"]}\n[web]\nport = {ports["web.host, web.port"]}\n'
            f'[tls]\nport = {ports["tls.port"]}\ncertificate = "{certificate}"\nkey = "{private}"\nca = "ca.crt"\n'
        )
        done = run("serve", folder=tmp_path)
    assert done.returncode == 2
    assert f"dicom-node: {key}" in done.stderr
    assert str(used) in done.stderr
    assert "Traceback" not in done.stderr


def test_no_bar_of_another_library_is_drawn_into_a_file() -> None:
    from transformers.utils import logging as transformers_logging

    from dicom_node.cli.training.options import no_bars_in_files

    transformers_logging.enable_progress_bar()
    no_bars_in_files()  # under pytest standard error is no terminal
    assert not transformers_logging.is_progress_bar_enabled()


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE", "OPENBLAS_NUM_THREADS": "4"}])
def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(given: dict[str, str]) -> None:
    program = (
        "import os, sys; from dicom_node.cli import main; sys.argv = ['dicom-node', '--version']\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "try: main()\n"
        "except SystemExit: print(os.environ['OMP_WAIT_POLICY'], os.environ['OPENBLAS_NUM_THREADS'])\n"
    )
    names = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
    surroundings = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env=surroundings | given,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == " ".join({**names, **given}.values())
