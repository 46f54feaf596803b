"""The files of a group: Kubernetes' own schemas, compose's structure, the node's own reading of its configuration."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from sqlalchemy import make_url
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.config import load_settings
from tests.support.common import REPOSITORY

GROUP = REPOSITORY / "deploy" / "group"
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
MANIFESTS = [
    (path.name, number, document)
    for path in sorted(KUBERNETES.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for number, document in enumerate(yaml.safe_load_all(path.read_text("utf-8")))
]
VERSIONS = ("1.29", "1.33")
NAMES = {"PGPASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("file", "number", "manifest"), MANIFESTS)
def test_a_manifest_is_one_by_the_schema_of_kubernetes(
    file: str, number: int, manifest: dict[str, Any], version: str
) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)
    wrong = json.loads(json.dumps(manifest))
    wrong["spec"]["unheardOf"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_the_manifests_fit_each_other() -> None:
    kinds = [(one["kind"], one["metadata"]["name"]) for _file, _number, one in MANIFESTS]
    assert len(kinds) == len(set(kinds))
    assert [kind for kind, _name in kinds].count("PodDisruptionBudget") == 2
    assert ("Job", "dicom-node-migrate") in kinds
    pods = [one["spec"]["template"] for _file, _number, one in MANIFESTS if "template" in one["spec"]]
    labels = [pod["metadata"]["labels"] for pod in pods]
    for _file, _number, one in MANIFESTS:
        selector = one["spec"].get("selector")
        if selector is not None:
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= each.items() for each in labels), one["metadata"]["name"]
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text("utf-8"))
    assert sorted(kustomization["resources"]) == sorted({file for file, _number, _one in MANIFESTS})
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["image"] == kustomization["images"][0]["name"]
        assert container["envFrom"] == [{"secretRef": {"name": "dicom-node"}}]
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert _is_a_command(container["command"])


def test_the_compose_file_follows_the_compose_specification() -> None:
    check = str(Path(sys.executable).with_name("check-jsonschema"))
    command = [check, "--builtin-schema", "vendor.compose-spec", str(GROUP / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_compose_file_hangs_together() -> None:
    compose = yaml.safe_load((GROUP / "compose.yaml").read_text("utf-8"))
    services = compose["services"]
    wanted = {"postgres", "objects", "receiver", "worker", "orthanc", "prometheus", "grafana", "migrate", "balancer"}
    assert wanted <= services.keys()
    for name, service in services.items():
        assert re.fullmatch(r"[\w./-]+:[\w.-]+", service["image"]), f"{name}: an image of a named version"
        assert service["image"].rpartition(":")[2] != "latest"
        assert set(service.get("depends_on", ())) <= services.keys()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (GROUP / source).exists(), f"{name}: {source}"
            elif not source.startswith("/"):
                assert source in compose["volumes"]
        if str(service.get("command", "")).startswith("dicom-node "):
            assert _is_a_command(shlex.split(service["command"]))
    assert services["receiver"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    scraped = yaml.safe_load((GROUP / "prometheus.yml").read_text("utf-8"))["scrape_configs"][0]["dns_sd_configs"][0]
    assert set(scraped["names"]) <= services.keys()


@pytest.mark.parametrize("folder", [GROUP, KUBERNETES])
def test_the_configuration_is_read_by_the_node_and_holds_no_secret(folder: Path) -> None:
    settings = load_settings(folder / "node.toml")
    assert settings.storage.kind == "s3"
    assert settings.database.url.startswith("postgresql")
    assert make_url(settings.database.url).password is None
    assert settings.storage.credentials_file is None, "keys come from the environment"
    kept = subprocess.run(["git", "ls-files", "deploy"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert not [name for name in kept.stdout.split() if "secrets/" in name or name.endswith(".env")]


def test_the_secrets_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets.sh"
    script.write_bytes((GROUP / "make-secrets.sh").read_bytes())
    subprocess.run(["sh", script], check=True, capture_output=True)
    made = {path.name: path.read_text("ascii") for path in (tmp_path / "secrets").iterdir()}
    assert {line.split("=")[0] for line in made["node.env"].splitlines()} == NAMES
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "secrets").iterdir())
    subprocess.run(["sh", script], check=True, capture_output=True)
    assert {path.name: path.read_text("ascii") for path in (tmp_path / "secrets").iterdir()} == made
    compose = yaml.safe_load((GROUP / "compose.yaml").read_text("utf-8"))
    asked = {Path(one["env_file"]).name for one in compose["services"].values() if "env_file" in one}
    assert asked == made.keys()


def _is_a_command(words: list[str]) -> bool:
    """Tell whether the command line accepts these words followed by --help."""
    assert words[0] == "dicom-node"
    return CliRunner().invoke(app, [*words[1:], "--help"]).exit_code == 0
