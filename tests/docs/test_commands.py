"""Every command that README and docs print exists, with its options, and runs, or the page says what it needs.

A block without a mark is run here, in an empty folder. Above a block, `<!-- needs: … -->` says what a test has not at
hand, and `<!-- tested: FILE … -->` names the test that runs the same commands.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dicom_node.cli import COMMANDS, load_command
from tests.docs.commands import PAGES, Block, blocks_of
from tests.support.command_line import run_command
from tests.support.common import REPOSITORY

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PACKAGES = ("dicom_node", "model", "training", "benchmarks")
"""Packages whose commands are checked; commands of other programs and modules are not."""
OURS = re.compile(r"(?:\.venv/bin/|/opt/dicom-node/bin/)?(dicom-node|make|python|accelerate) ")
INLINE = re.compile(r"`dicom-node ((?:[a-z-]+ ?)+)((?:[^`]*))`")


known_command = cache(load_command)
"""A command by its name, its options parsed once."""


def words_of(command: str) -> list[str]:
    """The words of a command, without the user that runs it and the folder of its program."""
    command = re.sub(r"^runuser -u \S+ -- ", "", command.partition(" && ")[0].partition(" | ")[0])
    first, *rest = shlex.split(command)
    return [Path(first).name if "/bin/" in first else first, *rest]


def command_named(words: list[str]) -> tuple[Any, list[str]]:
    """The command of the command line that the words name, and the words that are left. Raises KeyError."""
    if words[0] not in COMMANDS:
        raise KeyError(words[0])
    command, rest = known_command(words[0]), words[1:]
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def fault_of(command: str) -> str | None:
    """The fault of a printed command; None where it has none."""
    words = words_of(command)
    if words[0] == "dicom-node":
        return _fault_of_ours(words[1:])
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE)
        return next((f"no target {w}" for w in words[1:] if "=" not in w and w not in targets), None)
    if words[0] == "python" and words[1] == "-m":
        return _fault_of_module(words[2], words[3:])
    if words[0] == "accelerate":
        place = words.index("-m")
        return _fault_of_module(words[place + 1], words[place + 2 :])
    if words[0] == "python" or words[0].startswith("scripts/"):
        script = words[1] if words[0] == "python" else words[0]
        return None if (REPOSITORY / script).exists() else f"no file {script}"
    return None


def _fault_of_ours(words: list[str]) -> str | None:
    if words[0].startswith("--"):
        return None if words[0] in ("--version", "--help", "--install-completion") else f"no option {words[0]}"
    try:
        command, rest = command_named(words)
        # Parsed as the command line parses it, not run: names, options, types and what is required. Not what the
        # options' callbacks look for, which are the folders and data sets that a reader puts in.
        command = copy(command)
        command.params = [copy(parameter) for parameter in command.params]
        for parameter in command.params:
            parameter.callback = None
        command.make_context(" ".join(words[:2]), list(rest))
    except (KeyError, IndexError) as error:
        return f"no command {error}"
    except Exception as error:  # noqa: BLE001 a usage error of typer's own copy of click, which has no public name
        return str(getattr(error, "message", error)) or repr(error)
    return None


def _fault_of_module(name: str, words: list[str]) -> str | None:
    """Is the module there, and does its `main` have the options? Modules of others are not looked at."""
    if name.partition(".")[0] not in PACKAGES:
        return None
    if importlib.util.find_spec(name) is None:
        return f"no module {name}"
    options = _options_of(name)
    return next(
        (f"{name} has no {w}" for w in words if w.startswith("--") and w.partition("=")[0] not in options), None
    )


@cache
def _options_of(name: str) -> frozenset[str]:
    """Options of a module's command line, from its source: parameters of functions, and what argparse is told."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            found |= {f"--{argument.arg.replace('_', '-')}" for argument in arguments}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("--"):
            found.add(node.value)
        elif isinstance(node, ast.ImportFrom) and node.module and any(alias.name == "main" for alias in node.names):
            found |= _options_of(node.module)
    return frozenset(found)


def test_there_are_commands_to_check() -> None:
    assert len(BLOCKS) > 20
    assert sum(len(block.commands) for block in BLOCKS) > 60


def test_every_printed_command_exists_with_its_options() -> None:
    faults = [f"{b.name}: {c}: {fault}" for b in BLOCKS for c in b.commands if (fault := fault_of(c)) is not None]
    assert not faults, "\n".join(faults)


def test_a_command_that_is_not_there_is_found() -> None:
    wrong = ["dicom-node nonsense", "dicom-node models nonsense", "dicom-node status --nonsense", "dicom-node echo"]
    wrong += ["make nonsense", "python -m training.nonsense", "python -m training.phantom.cache F --nonsense 3"]
    assert all(fault_of(command) is not None for command in wrong)


def inline() -> Iterator[tuple[str, str]]:
    """Commands inside sentences, with their page."""
    for page in PAGES:
        for match in INLINE.finditer(page.read_text("utf-8")):
            yield page.name, f"{match[1]}{match[2]}"


def test_every_command_in_a_sentence_exists_with_its_options() -> None:
    faults = []
    for page, text in inline():
        plain = re.sub(r"\\?\|.*?(?=\s|$)|[\[\]…\"']", " ", text)
        words = plain.split()
        known = [] if words[0] not in COMMANDS else words
        if not known:
            faults.append(f"{page}: dicom-node {text}: no command {words[0]}")
            continue
        command = known_command(words[0])
        rest = words[1:]
        if hasattr(command, "commands") and rest:
            if rest[0] not in command.commands:
                faults.append(f"{page}: dicom-node {text}: no command {rest[0]}")
                continue
            command = command.commands[rest[0]]
        options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        faults += [f"{page}: dicom-node {text}: {w}" for w in rest if w.startswith("--") and w not in options]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_no_command_stands_outside_a_shell_block(page: Path) -> None:
    lines = page.read_text("utf-8").splitlines()
    hidden = [line for line in lines if line.startswith("    ") and OURS.match(line.strip())]
    assert not hidden, "write it into a block that begins with ```sh"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.marker == "tested"], ids=lambda block: block.name)
def test_the_test_that_a_block_names_has_its_commands(block: Block) -> None:
    text = ""
    for name in block.words.split():
        assert (REPOSITORY / name).exists(), f"{block.name} names {name}"
        text += (REPOSITORY / name).read_text("utf-8")
    if "blocks_of(PAGE)" in text or "snippet(" in text:
        return  # it reads the page itself
    for command in block.commands:
        words = words_of(command)
        if words[0] == "dicom-node":
            assert re.search(rf"[\"'(]{words[1]}[\"',)]|\b{words[1]}(?:_command)?\(", text), f"{block.name}: {command}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if not b.marker], ids=lambda block: block.name)
def test_a_block_without_a_mark_runs_in_an_empty_folder(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for command in block.commands:
        words = words_of(command)
        assert words[0] == "dicom-node", f"{block.name}: mark the block with `needs` or `tested`"
        done = run_command(*words[1:], folder=tmp_path)
        assert done.returncode in (0, 1), (command, done.stderr)  # 1: something needs a person, as on an empty node
        assert "Traceback" not in done.stderr
