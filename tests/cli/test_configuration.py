"""`dicom-node config check`: exit status, and what is said of a file that is not in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from dicom_node.cli import configuration
from dicom_node.config.template import template

app = Typer()
configuration.register(app)


def checked(folder: Path, text: str) -> tuple[int, dict[str, Any]]:
    """Exit status and the values that the command prints as JSON."""
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    done = CliRunner().invoke(app, ["config", "check", "--json", "--config", str(path)])
    return done.exit_code, json.loads(done.stdout)


def test_the_template_is_in_order_and_what_it_lacks_is_noted(tmp_path: Path) -> None:
    status, values = checked(tmp_path, template())
    assert (status, values["valid"], values["wrong"], values["missing"]) == (0, True, [], [])
    assert any("destinations" in note for note in values["notes"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[node]\ncolour = 1\n", ["node.colour", "allowed here: ae_title"]),
        ('[node]\nport = "many"\n', ["node.port", "integer", "given: 'many'"]),
        (
            '[[destinations]]\nname = "a"\nae_title = "A"\nport = 1\nverify = "hope"\n',
            ["destinations.0.verify", "'hope'"],
        ),
        ("[node\n", ["not valid TOML"]),
        ("[model]\nsource = 'org/model'\n", ["model.source", "'org/model'", "model.revision"]),
    ],
)
def test_each_wrong_key_is_named_with_its_value_and_what_is_allowed(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    status, values = checked(tmp_path, text)
    assert status == 2
    assert values["valid"] is False
    assert all(word in " ".join(values["wrong"]) for word in words), values["wrong"]


def test_a_file_that_is_named_and_missing_is_status_1(tmp_path: Path) -> None:
    text = '[tls]\ncertificate = "node.crt"\nkey = "node.key"\nca = "ca.crt"\n'
    (tmp_path / "ca.crt").write_bytes(b"")
    status, values = checked(tmp_path, text)
    assert status == 1
    assert [line.partition(":")[0] for line in values["missing"]] == ["tls.certificate", "tls.key"]


def test_without_a_file_the_next_command_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["config", "check", "--config", str(tmp_path / "none.toml")])
    assert done.exit_code == 2
    assert "dicom-node init" in done.stderr


def test_an_address_that_was_left_to_its_default_is_noted(tmp_path: Path) -> None:
    status, values = checked(tmp_path, "[[destinations]]\nname = 'pacs'\nport = 4242\n")
    assert status == 0
    note = "destination 'pacs' has no ae_title and no host: ANY-SCP at 127.0.0.1, port 4242, is meant"
    assert note in values["notes"]
