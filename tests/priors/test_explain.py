"""`dicom-node priors explain` on a node's own index and files."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from dicom_node.cli import priors
from tests.priors.archives import CURRENT_FILM, FILMS, fetching_node, receive, uid


def run(folder: Path, *arguments: str) -> tuple[int, str, BaseException | None]:
    config = folder / "config.toml"
    config.write_text(
        f'[node]\ndata_dir = "{folder}"\n[database]\nurl = "sqlite:///{folder}/index.db"\n', encoding="utf-8"
    )
    app = typer.Typer()
    priors.register(app)
    result = CliRunner().invoke(app, ["priors", "explain", *arguments, "--config", str(config)])
    return result.exit_code, result.stdout, result.exception


def test_every_candidate_with_its_reason(tmp_path: Path) -> None:
    with fetching_node(tmp_path, []) as node:
        for data_set in FILMS[:6]:
            receive(node, data_set)
    status, out, _ = run(tmp_path, uid("current"), "--json")
    assert status == 0
    told = json.loads(out)
    (choice,) = told["choices"]
    assert choice["sop_instance_uid"] == CURRENT_FILM.SOPInstanceUID
    assert choice["prior"] == FILMS[1].SOPInstanceUID
    against = {c["sop_instance_uid"]: " ".join(c["against"]) for c in choice["candidates"]}
    assert set(against) == {data_set.SOPInstanceUID for data_set in FILMS[:6]}
    for number, words in ((2, "lateral view"), (3, "not a chest"), (4, "another issuer"), (5, "birth date differs")):
        assert words in against[FILMS[number].SOPInstanceUID]
    status, out, _ = run(tmp_path, uid("current"))
    assert status == 0
    assert "Compared with the image of 2024-03-10" in out
    status, _, error = run(tmp_path, "1.2.3")
    assert status != 0
    assert "no study 1.2.3" in str(error)
