"""A worker that is killed again and again in the middle of a backfill loses nothing and does nothing twice."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sqlalchemy import func, select

from dicom_node.backfill import runs
from dicom_node.config import load_settings
from dicom_node.index import schema
from dicom_node.index.clock import clock_of
from dicom_node.index.database import Database
from dicom_node.index.tables.backfill import BackfillItem, BackfillItemState, BackfillRunState
from dicom_node.index.tables.core import Delivery, Document, Instance, Job, JobKind, JobState, Result, Study
from tests.support.archives import part10
from tests.support.common import ANY_DISK, wait_until
from tests.support.databases import index_url
from tests.support.forked import ForkedProcess
from tests.support.orthanc import running_orthanc
from tests.support.past import frontal_films

KILLS = 4


def _ended(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count(BackfillItem.id)).where(BackfillItem.ended_at.is_not(None))) or 0


def _is_done(database: Database) -> bool:
    with database.read() as session:
        return runs.run_named(session, "past").state is BackfillRunState.DONE


def _has_ended(database: Database, studies: int) -> bool:
    return _ended(database) >= studies or _is_done(database)


def _worker(config: Path) -> ForkedProcess:
    return ForkedProcess("tests.support.backfill_worker", [str(config)], log=config.parent / "worker.log")


def test_a_worker_that_is_killed_loses_nothing_and_doubles_nothing(each_index: str, tmp_path: Path) -> None:
    films = frontal_films(tmp_path / "films")
    node = tmp_path / "node"
    node.mkdir()
    with running_orthanc(tmp_path / "orthanc", dicomweb=False) as orthanc:
        for film in films:
            orthanc.upload(part10(film))
        config = node / "config.toml"
        config.write_text(
            f"""[node]
data_dir = "{node}"
[database]
url = "{index_url(node)}"
{ANY_DISK}[model]
unfamiliar = "warn"
[[query]]
name = "pacs"
ae_title = "ORTHANC"
port = {orthanc.dicom_port}
retrieve = "get"
[[destinations]]
name = "pacs"
ae_title = "ORTHANC"
port = {orthanc.dicom_port}
verify = "find"
""",
            "utf-8",
        )
        settings = load_settings(config)
        database = Database(settings.database.url)
        schema.upgrade(database)
        with database.write() as session:
            new = runs.NewRun(
                name="past",
                archive="pacs",
                studies=[str(film.StudyInstanceUID) for film in films],
                sends_reports=True,
                limits=runs.BackfillLimits(per_minute=1000, at_once=2),
            )
            runs.start_run(session, new, settings=settings, now=clock_of(database)(), who="test")
        for kill in range(1, KILLS + 1):
            process = _worker(config)
            # Killed while some of its studies have ended and others are being fetched or analysed.
            wait_until(partial(_has_ended, database, kill), seconds=300, what="an end", closely=True)
            process.kill()
            process.wait()
        process = _worker(config)
        try:
            wait_until(lambda: _is_done(database), seconds=300, what="the run to be done")
        finally:
            process.kill()
            process.wait()
        _assert_each_once(database, len(films))
        database.close()


def _assert_each_once(database: Database, studies: int) -> None:
    with database.read() as session:

        def count(*where: object) -> int:
            return session.scalar(select(func.count()).where(*where)) or 0  # type: ignore[arg-type]

        states = dict(session.execute(select(BackfillItem.state, func.count()).group_by(BackfillItem.state)).all())
        assert states == {BackfillItemState.ANALYSED: studies}
        assert count(Study.id > 0) == count(Instance.id > 0) == count(Result.is_current) == studies
        made = list(session.execute(select(Result.study_pk, Result.revision, Result.generation)).all())
        assert len(made) == len(set(made)), "no analysis was stored twice"
        # A study that a kill made come after a later one of its patient has that one analysed anew (docs/adr/0026).
        assert count(Document.id > 0) == count(Delivery.id > 0) == 2 * len(made)
        assert count(Job.kind == JobKind.DELIVER) == 2 * len(made)
        assert count(Job.state == JobState.DEAD) == 0
