"""A running node changes its model without a restart: promotion, one that does not load, rollback, the shadow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from sqlalchemy import select

from dicom_node.admin import operations
from dicom_node.index.tables.core import Document, Job, JobKind, JobState, Notice, Result
from dicom_node.index.tables.models import ModelServing, PairStatistics, ShadowResult
from model.checkpoints.registry import Manifest
from tests.support.checkpoints import broken_checkpoint, tiny_checkpoint
from tests.support.command_line import run_command
from tests.support.common import wait_until
from tests.support.dcmtk import storescu
from tests.support.node import Node, new_node, running
from training.phantom.dicom import PhantomStudies, write_study_pair

pytestmark = pytest.mark.timeout(3000)  # four model processes start, each of which imports torch


class Site:
    """A node with a model of its own and checkpoints beside it, and one pair that it is asked again and again."""

    def __init__(self, node: Node, made: PhantomStudies, manifests: dict[str, Manifest]) -> None:
        self.node, self.made, self.manifests = node, made, manifests

    def command(self, *words: str, status: int = 0) -> Any:
        done = run_command(*words, "--config", str(self.node.config), "--json", folder=self.node.folder)
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout)

    def current(self) -> Result | None:
        """The current result of the study with a prior."""
        with self.node.database() as database, database.read() as session:
            return session.scalars(
                select(Result).where(Result.is_current, Result.prior_sop_instance_uid != "")
            ).one_or_none()

    def shadow(self, name: str) -> None:
        """Put a checkpoint into the shadow."""
        words = ("models", "shadow", name, "--config", str(self.node.config))
        assert run_command(*words, folder=self.node.folder).returncode == 0

    def shadow_rows(self) -> list[ShadowResult]:
        with self.node.database() as database, database.read() as session:
            return list(session.scalars(select(ShadowResult).order_by(ShadowResult.id)))

    def asked_again(self) -> Result:
        """Have the study analysed once more; its new result."""
        uid, before = self.made.current.study_instance_uid, self.current()
        assert before is not None
        with self.node.database() as database, database.write() as session:
            now = before.created_at
            operations.reprocess(session, uid, settings=self.node.settings, now=now, who="test")
        wait_until(lambda: (r := self.current()) is not None and r.id != before.id, seconds=1500, what="a new result")
        after = self.current()
        assert after is not None
        return after


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    configured = tmp_path / "configured"
    manifests = {"": tiny_checkpoint(configured, seed=1)}
    node = new_node(
        tmp_path / "node", extra=f'[model]\nsource = "{configured}"\ntimeout_seconds = 300\nshadow_nice = 0\n'
    )
    models = node.folder / "data" / "models"
    manifests["better"] = tiny_checkpoint(models / "better", seed=2)
    manifests["broken"] = broken_checkpoint(models / "broken")
    made = write_study_pair(tmp_path / "studies", 11, long_side=384)
    with running(node):
        storescu([*made.prior.files, *made.current.files], node.port)
        site = Site(node, made, manifests)
        wait_until(lambda: site.current() is not None, seconds=1500, what="the first result")
        yield site


def _document(site: Site, result: Result, kind: str) -> pydicom.Dataset:
    with site.node.database() as database, database.read() as session:
        path = session.scalars(
            select(Document.path).where(Document.result_pk == result.id, Document.kind == kind)
        ).one()
    return pydicom.dcmread(site.node.folder / "data" / "documents" / path)


def test_promotion_failure_rollback_and_shadow_in_a_running_node(site: Site) -> None:
    first = site.current()
    assert first is not None
    assert first.device_uid == site.manifests[""].device_uid
    with site.node.database() as database, database.read() as session:
        seen = session.get_one(PairStatistics, first.id)
    assert 0.0 < seen.pixels["mean"] < 1.0
    assert seen.prior_age_days is not None
    assert seen.prior_age_days > 0

    # The challenger answers unheard, after the result is there.
    site.shadow("better")
    second = site.asked_again()
    assert second.device_uid == first.device_uid
    wait_until(lambda: site.shadow_rows(), seconds=1500, what="the challenger's answer")
    (row,) = site.shadow_rows()
    assert (row.result_pk, row.device_uid, row.error) == (second.id, site.manifests["better"].device_uid, "")
    listed = site.command("models", "disagreements", "better")
    assert listed["summary"]["answered"] == 1
    assert sum(len(line["differences"]) for line in listed["disagreements"]) == row.disagreements > 0

    # Promotion: the next report is the new one's, names it and its predecessor.
    done = site.command("models", "promote", "better", "--reason", "tried in the shadow", "--wait", "1500")
    assert done["waiting"] == done["errors"] == []
    assert len(done["workers"]) == 1
    third = site.asked_again()
    assert third.device_uid == site.manifests["better"].device_uid
    assert third.supersedes_pk == second.id
    report, before = _document(site, third, "machine"), _document(site, second, "machine")
    assert report.SOPInstanceUID != before.SOPInstanceUID
    named = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert before.SOPInstanceUID in {item.ReferencedSOPInstanceUID for item in named}
    assert third.device_uid in report.to_json()
    assert third.prediction["findings"] != second.prediction["findings"]

    # One that does not load: said loudly, and the champion before it answers on.
    failed = site.command("models", "promote", "broken", "--wait", "1500", status=1)
    assert "cannot be loaded" in failed["errors"][0]
    fourth = site.asked_again()
    assert fourth.device_uid == site.manifests["better"].device_uid
    with site.node.database() as database, database.read() as session:
        notices = {notice.kind for notice in session.scalars(select(Notice))}
        serving = session.scalars(select(ModelServing)).one()
    assert "model not loaded" in notices
    assert (serving.folder, serving.wanted) == ("better", "broken")
    assert serving.error

    # Back twice: at once, and the old answers bit by bit.
    assert site.command("models", "rollback", "--wait", "1500")["champion"] == "better"
    last = site.command("models", "rollback", "--wait", "1500")
    assert last["champion"] == ""
    assert len(last["workers"]) == 1
    fifth = site.asked_again()
    assert fifth.device_uid == first.device_uid
    assert fifth.prediction["findings"] == first.prediction["findings"] == second.prediction["findings"]
    kinds = [(line["kind"], line["folder"]) for line in reversed(site.command("models", "list")["history"])]
    assert kinds == [
        ("shadow on", "better"),
        ("promoted", "better"),
        ("promoted", "broken"),
        ("rolled back", "broken"),
        ("rolled back", "better"),
    ]
    with site.node.database() as database, database.read() as session:
        dead = session.scalars(select(Job).where(Job.state == JobState.DEAD)).all()
        assert dead == []
        assert {job.state for job in session.scalars(select(Job).where(Job.kind == JobKind.ANALYSE))} == {JobState.DONE}
