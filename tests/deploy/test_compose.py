"""The Compose file and what it mounts: schema of the Compose specification, and that the three configurations fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_node.config import Destination, QueryPeer, load_settings
from tests.docs.test_first_routing import snippet
from tests.support.common import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "compose"
FILES = sorted(FOLDER.glob("*compose*.yaml"))


def services(path: Path = FOLDER / "compose.yaml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))["services"]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_compose_file_follows_the_compose_specification(path: Path) -> None:
    check = str(Path(sys.executable).with_name("check-jsonschema"))
    command = [check, "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_mounted_and_built_from_is_there(path: Path) -> None:
    for name, service in services(path).items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (FOLDER / source).exists(), (name, source)
        build = service.get("build")
        if build:
            assert (FOLDER / build["context"] / build["dockerfile"]).exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_port_is_published_on_loopback_only(path: Path) -> None:
    ports = [port for service in services(path).values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in ports), ports


def test_node_and_orthanc_know_each_other() -> None:
    node = load_settings(FOLDER / "node.toml")
    orthanc = json.loads((FOLDER / "orthanc.json").read_text("utf-8"))
    assert orthanc["DicomModalities"]["LUMEN"] == [node.node.ae_title, "node", node.node.port]
    peers: tuple[Destination | QueryPeer, ...] = (*node.destinations, *node.query)
    for peer in peers:
        assert (peer.ae_title, peer.host, peer.port) == (orthanc["DicomAet"], "orthanc", orthanc["DicomPort"])
    assert {"node", "orthanc"} <= set(services())


def test_the_rule_is_the_one_of_the_tutorial() -> None:
    assert (FOLDER / "route-to-node.lua").read_text("utf-8") == snippet("orthanc rule")
