"""`dicom-node priors explain` on a node's own index and files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pydicom
import typer
from sqlalchemy import select
from typer.testing import CliRunner

from dicom_node.cli import priors
from dicom_node.index.tables.core import Outcome, Result, Study
from tests.support.archives import CURRENT_FILM, FILMS, fetching_node, receive, uid
from training.phantom.dicom import write_study_pair


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
    assert "The prior is the patient's most recent earlier frontal chest radiograph that this node holds." in out
    assert re.search(r"^1 +2024-03-10", out, re.MULTILINE)
    status, _, error = run(tmp_path, "1.2.3")
    assert status != 0
    assert "no study 1.2.3" in str(error)


def test_the_stored_decision_stands_first_with_the_priors_own_uid_and_date(tmp_path: Path) -> None:
    """The prior that the report was compared with, although another one would be chosen now."""
    with fetching_node(tmp_path, []) as node:
        for data_set in FILMS[:2]:
            receive(node, data_set)
        used = FILMS[0]
        with node.database.write() as session:
            study = session.scalars(select(Study).where(Study.study_instance_uid == uid("current"))).one()
            session.add(
                Result(
                    study_pk=study.id,
                    revision=1,
                    generation=1,
                    sop_instance_uid=str(CURRENT_FILM.SOPInstanceUID),
                    outcome=Outcome.COMPARED,
                    prior_sop_instance_uid=str(used.SOPInstanceUID),
                    prior_study_instance_uid=str(used.StudyInstanceUID),
                    prior_reasons=["The one that was there then."],
                    prediction={"prior": {"date": "2024-01-05T08:10:00"}},
                    created_at=node.clock(),
                )
            )
    status, out, _ = run(tmp_path, uid("current"))
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("Decided by the analysis on ")
    for words in (f"prior image {used.SOPInstanceUID}", "image of 2024-01-05 08:10", "The one that was there then."):
        assert any(words in line for line in lines[: lines.index("As it would be chosen now, by the headers alone:")])
    _, out, _ = run(tmp_path, uid("current"), "--json")
    assert json.loads(out)["decided"][0]["prior_sop_instance_uid"] == used.SOPInstanceUID


def test_a_look_at_the_pixels_tells_what_no_header_does(tmp_path: Path) -> None:
    """The archives' films are noise, which no header says; one of them is a phantom, sent twice."""
    made = write_study_pair(tmp_path / "made", 41)
    film, earlier = (pydicom.dcmread(study.files[0]) for study in (made.current, made.prior))
    again = pydicom.dcmread(made.current.files[0])
    again.StudyInstanceUID, again.StudyDate, again.AcquisitionDate = uid("again"), "20240111", "20240111"
    again.SeriesInstanceUID, again.SOPInstanceUID = uid("again series"), uid("again image")
    again.file_meta.MediaStorageSOPInstanceUID = again.SOPInstanceUID
    for keyword in ("AcquisitionDateTime", "IrradiationEventUID", "ContentDate", "SeriesDate"):
        if keyword in again:
            del again[keyword]
    again.ContentDate = again.SeriesDate = "20240111"
    with fetching_node(tmp_path, []) as node:
        for data_set in (*FILMS[:2], film, earlier, again):
            receive(node, data_set)
    status, out, _ = run(tmp_path, made.current.study_instance_uid, "--look", "--json")
    assert status == 0
    (choice,) = json.loads(out)["choices"]
    assert choice["prior"] == earlier.SOPInstanceUID
    against = {c["sop_instance_uid"]: " ".join(c["against"]) for c in choice["candidates"]}
    assert "the same picture" in against[again.SOPInstanceUID]
    _, out, _ = run(tmp_path, made.current.study_instance_uid, "--json")
    assert "the same picture" not in out
    for arguments, analysed in (((), True), (("--look",), False)):
        status, out, _ = run(tmp_path, uid("current"), "--json", *arguments)
        assert status == 0
        (image,) = json.loads(out)["images"]
        assert image["analysed"] is analysed
    assert "noise or a fine pattern, whatever its header says" in image["verdict"]
