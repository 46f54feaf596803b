"""Two machines over one PostgreSQL and one data folder: one champion, one journal, one night."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.config import DatabaseSection, NodeSection, RetrainSection, Settings
from dicom_node.context import NodeContext
from dicom_node.drift import weekly as weeks
from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Outcome, Result, Study
from dicom_node.index.tables.models import ModelEvent, ShadowResult
from dicom_node.retrain import scheduled_run as night
from dicom_node.serving import promotion as models
from dicom_node.serving import shadow
from dicom_node.serving import shadow_comparison as shadow_figures
from dicom_node.serving.workers import serving_lines
from dicom_node.storage.folder_store import FolderStore
from dicom_node.system.leader_election import Leadership
from dicom_node.web.metrics.models import families
from tests.support.checkpoints import paper_checkpoint
from tests.support.common import wait_until
from tests.support.postgres import PostgresServer, postgres_server  # noqa: F401 (a fixture)

NOW = dt.datetime(2026, 3, 4, 2, 0, tzinfo=dt.UTC)


@pytest.fixture
def machines(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[tuple[NodeContext, NodeContext]]:  # noqa: F811
    url = postgres_server.new_database()
    settings = Settings(
        node=NodeSection(data_dir=tmp_path),
        database=DatabaseSection(url=url),
        retrain=RetrainSection(schedule="01:00-05:00", timezone="UTC"),
    )
    nodes = [
        NodeContext(settings=settings, database=Database(url), store=FolderStore(tmp_path), clock=lambda: NOW)
        for _ in range(2)
    ]
    schema.upgrade(nodes[0].database)
    for name in ("first", "second"):
        paper_checkpoint(nodes[0].models_dir / name)
    yield nodes[0], nodes[1]
    for node in nodes:
        node.database.close()


def test_both_follow_one_pointer_and_each_change_is_written_down_once(
    machines: tuple[NodeContext, NodeContext],
) -> None:
    one, other = machines
    models.promote(one, "first", who="ada")
    assert models.candidates(other.settings, other.models_dir)[0].folder == "first"
    later = dataclasses.replace(other, clock=lambda: NOW + dt.timedelta(minutes=1))
    models.rollback(later, who="bob")
    assert models.champion(one.models_dir) == ""
    threads = [threading.Thread(target=models.catch_up, args=(node,)) for node in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shadow.choose(one, "second", who="ada")
    with other.database.read() as session:
        events = list(session.scalars(select(ModelEvent).order_by(ModelEvent.id)))
        assert [(event.kind.value, event.who) for event in events] == [
            ("promoted", "ada"),
            ("rolled back", "bob"),
            ("shadow on", "ada"),
        ]
        assert shadow.challenger(session, other.settings) == "second"


def test_one_night_is_begun_by_one_of_them(machines: tuple[NodeContext, NodeContext]) -> None:
    one, other = machines
    leads = [Leadership(node, lock=night.NIGHT_LOCK) for node in machines]
    assert [lead.take_or_keep() for lead in leads] == [True, False]
    window = night.window_now(one.settings.retrain, NOW)
    assert window is not None
    with one.database.write() as session:
        assert night.begin(session, window, now=NOW, host="one", pid=1) is not None
    with other.database.write() as session:
        assert night.begin(session, window, now=NOW, host="other", pid=1) is None
    leads[0].give_up()
    wait_until(leads[1].take_or_keep, what="the server to see that the first one is gone")
    leads[1].give_up()


def test_metrics_drift_and_shadow_are_read_on_postgresql_too(machines: tuple[NodeContext, NodeContext]) -> None:
    node = machines[0]
    with node.database.write() as session:
        study = Study(study_instance_uid="1.2", first_instance_at=NOW, last_instance_at=NOW)
        session.add(study)
        session.flush()
        result = Result(study_pk=study.id, revision=1, outcome=Outcome.COMPARED, created_at=NOW)
        session.add(result)
        session.flush()
        session.add(ShadowResult(result_pk=result.id, folder="second", device_uid="1", created_at=NOW))
        session.add(ShadowResult(result_pk=result.id, folder="second", device_uid="2", error="no", created_at=NOW))
    weeks.run(node)
    with node.database.read() as session:
        samples = {
            (sample.labels["folder"], sample.labels["outcome"]): sample.value
            for family in families(session, node, NOW)
            for sample in family.samples
            if sample.name == "dicom_node_shadow_results"
        }
        assert samples == {("second", "agrees"): 1.0, ("second", "failed"): 1.0}
        assert shadow_figures.summary(session, "second")["failed"] == 1
        assert shadow_figures.disagreements(session, "second") == []
        assert serving_lines(session, NOW) == []
