"""kill −9 at any moment between completion and proof: one current result a study, every document there once, proven."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid
from sqlalchemy import ColumnElement, func, select

from dicom_node.context import NodeContext, utc_now
from dicom_node.index.tables.core import (
    DeliveryState,
    Document,
    Job,
    JobKind,
    JobState,
    Outcome,
    Result,
    Study,
    StudyState,
)
from tests.support.common import wait_until
from tests.support.delivery_node import all_jobs, deliveries, make_node, make_result
from tests.support.faulty_pacs import Pacs, running
from tests.support.forked import ForkedProcess
from tests.support.tiny_nvila import save_tiny
from tests.support.web_site import add_image
from training.phantom.dicom import write_study_pair

PROOFS = {"commitment", "find"}
"""A kill may take three requests for commitment in a row with it; then the query proves (docs/administration.md)."""
Sign = Callable[[], bool]


def write_config(folder: Path, port: int, *, more: str = "") -> Path:
    """Reports that were due on a killed association never come: a short time-out asks again."""
    config = folder / "config.toml"
    config.write_text(
        f"""[node]
data_dir = "data"
[database]
url = "sqlite:///index.db"
[completion]
quiet_seconds = 0.2
[delivery]
proof_timeout_seconds = 1
[[destinations]]
name = "pacs"
ae_title = "FAULTY"
port = {port}
same_association_seconds = 5
{more}""",
        "utf-8",
    )
    return config


def destination(port: int) -> dict[str, Any]:
    return {"name": "pacs", "port": port, "ae_title": "FAULTY", "same_association_seconds": 5}


def kill_rounds(folder: Path, rounds: int, seed: int) -> None:
    """Between result and proof: kill after so many objects have come in or at a random stage, again and again."""
    dice = random.Random(seed)
    with running(Pacs()) as pacs:
        node = make_node(folder, utc_now, destination(pacs.port))  # type: ignore[arg-type]
        config = write_config(folder, pacs.port)
        uids: list[str] = []
        for _ in range(rounds):
            uids += make_result(node)
            kill_at(node, config, dice.choice(delivery_signs(node, pacs)))
        finish(node, config)
        assert sorted(pacs.kept) == sorted(uids), "no document lost, none under another name"
        assert {row.proof for row in deliveries(node)} <= PROOFS
        node.database.close()


def delivery_signs(node: NodeContext, pacs: Pacs) -> tuple[Sign, ...]:
    """States that the PACS or the index shows: claimed, sent, stored, commitment asked for, confirmed."""
    sends, asks = pacs.received, pacs.actions
    confirmed = sum(row.state is DeliveryState.CONFIRMED for row in deliveries(node))
    return (
        lambda: any(job.state is JobState.RUNNING and job.kind is JobKind.DELIVER for job in all_jobs(node)),
        lambda: pacs.received > sends,
        lambda: any(row.state is DeliveryState.STORED for row in deliveries(node)),
        lambda: pacs.actions > asks,
        lambda: sum(row.state is DeliveryState.CONFIRMED for row in deliveries(node)) > confirmed,
    )


def kill_at(node: NodeContext, config: Path, sign: Sign, *more: str) -> None:
    """One round: start, wait for the sign, kill. A stage may be over before it is seen; then the end is as good."""
    process = start(config, *more)
    try:
        wait_until(lambda: sign() or finished(node), seconds=180, what="the moment to kill", closely=True)
    finally:
        process.kill()
        process.wait(30)


def finish(node: NodeContext, config: Path, *more: str) -> None:
    """Let it come to its end undisturbed."""
    process = start(config, *more)
    try:
        wait_until(lambda: finished(node), seconds=600, what="all documents to be proven")
    finally:
        process.terminate()
        process.wait(60)


def start(config: Path, *more: str) -> ForkedProcess:
    return ForkedProcess("tests.support.delivering", [str(config), *more], log=config.with_name("node.log"))


def finished(node: NodeContext) -> bool:
    """Every study has its result and every document its proof."""
    with node.database.read() as session:
        waiting = session.scalar(select(func.count()).where(Study.state != StudyState.ANALYSED, WAS_SENT))
    return not waiting and all(row.state is DeliveryState.CONFIRMED for row in deliveries(node))


WAS_SENT = Study.calling_ae_title != ""
"""Studies that came by `add_study`; those of `make_result` stand still."""


def test_killed_at_a_few_moments(tmp_path: Path) -> None:
    kill_rounds(tmp_path, rounds=3, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(5400)
def test_killed_a_hundred_times(tmp_path: Path) -> None:
    kill_rounds(tmp_path, rounds=100, seed=2)


def kill_analyses(folder: Path, rounds: int, seed: int) -> None:
    """Between completion and proof: each round a film of one patient arrives and the kill falls on some stage."""
    dice = random.Random(seed)
    pair = write_study_pair(folder / "films", 31, long_side=384)
    films = [pydicom.dcmread(study.files[0]) for study in (pair.prior, pair.current)]
    model = f'[model]\nsource = "{save_tiny(folder / "tiny")}"\n'
    with running(Pacs()) as pacs:
        node = make_node(folder, utc_now, destination(pacs.port))  # type: ignore[arg-type]
        config = write_config(folder, pacs.port, more=model)
        for number in range(rounds):
            add_study(node, films[number % 2], number, folder / "film.dcm")
            signs = (*analysis_signs(node), *delivery_signs(node, pacs))
            kill_at(node, config, signs[number % len(signs)] if rounds >= len(signs) else dice.choice(signs), "analyse")
        finish(node, config, "analyse")
        with node.database.read() as session:
            current = session.scalars(select(Result.study_pk).where(Result.is_current)).all()
            studies = session.scalars(select(Study.id)).all()
            documents = session.scalars(select(Document.sop_instance_uid)).all()
            outcomes = set(session.scalars(select(Result.outcome)))
        assert sorted(current) == sorted(studies), "no study without a result, none with two current ones"
        assert sorted(pacs.kept) == sorted(documents), "every document at the PACS under its own UID, and no other"
        assert {row.proof for row in deliveries(node)} <= PROOFS
        assert outcomes <= {Outcome.COMPARED, Outcome.FINDINGS_ONLY}, "no study fails because of a kill"
        node.database.close()


def add_study(node: NodeContext, film: pydicom.Dataset, number: int, path: Path) -> None:
    """A study of its own of the same patient, a day after the last one."""
    film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID = generate_uid(), generate_uid(), generate_uid()
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
    day = (dt.date(2026, 3, 1) + dt.timedelta(days=number)).strftime("%Y%m%d")
    film.StudyDate = film.SeriesDate = film.AcquisitionDate = film.ContentDate = day
    film.save_as(path, enforce_file_format=True)
    add_image(node, path)


def analysis_signs(node: NodeContext) -> tuple[Sign, ...]:
    """States between completion and result: closed, claimed, documents on the disk, result committed."""
    with node.database.read() as session:
        results = session.scalar(select(func.count(Result.id))) or 0
    written = len(list(node.documents_dir.rglob("*.dcm")))

    def there_is(table: type[Any], *wanted: ColumnElement[bool], more_than: int = 0) -> bool:
        with node.database.read() as session:
            return (session.scalar(select(func.count(table.id)).where(*wanted)) or 0) > more_than

    return (
        lambda: there_is(Study, Study.state == StudyState.COMPLETE),
        lambda: there_is(Job, Job.kind == JobKind.ANALYSE, Job.state == JobState.RUNNING),
        lambda: len(list(node.documents_dir.rglob("*.dcm"))) > written,
        lambda: there_is(Result, more_than=results),
    )


def test_killed_at_a_few_moments_of_an_analysis(tmp_path: Path) -> None:
    kill_analyses(tmp_path, rounds=2, seed=4)


@pytest.mark.soak
@pytest.mark.timeout(9000)
def test_killed_a_hundred_times_between_completion_and_proof(tmp_path: Path) -> None:
    kill_analyses(tmp_path, rounds=100, seed=5)
