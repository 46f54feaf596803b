"""A group's members are killed, stopped and cut off, its database crashes; each study ends with one current report."""

from __future__ import annotations

import functools
import math
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from sqlalchemy import func, select

from dicom_node.errors import IndexUnavailableError
from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Delivery, DeliveryState, Job, JobState, Result, Study, StudyState
from tests.support.common import wait_until
from tests.support.group import Group, running_group, studies
from tests.support.object_store import S3Server
from tests.support.orthanc import running_orthanc
from tests.support.postgres import PostgresServer, running_postgres

SEED = 20261129
LEASE_SECONDS = 4.0
REPORTS = 2
"""The machine's and the reading report of each study."""


def send_until_taken(group: Group, film: Dataset, dice: random.Random) -> int:
    """Send as a modality does: again after any failure, to any receiver; returns how often."""
    for times in range(1, 200):
        ae = AE(ae_title="MODALITY")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 15
        ae.add_requested_context(film.SOPClassUID, film.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", dice.choice(group.receivers).port, ae_title="LUMEN")
        if association.is_established:
            answer = association.send_c_store(film)
            association.release()
            if answer.get("Status") == 0:
                return times
        time.sleep(0.2)  # a modality's pause between two tries
    pytest.fail("a study was never taken")


def confirmed_reports(database: Database) -> int:
    """Count the documents that are proven in the archive; -1 while the database is away."""
    try:
        with database.read() as session:
            return session.scalar(select(func.count()).where(Delivery.state == DeliveryState.CONFIRMED)) or 0
    except IndexUnavailableError:
        return -1


def is_finished(database: Database, count: int) -> bool:
    """Return whether every study has its confirmed reports."""
    try:
        with database.read() as session:
            complete = session.scalar(select(func.count()).where(Study.state != StudyState.OPEN))
            open_jobs = session.scalar(select(func.count()).where(Job.state.in_([JobState.READY, JobState.RUNNING])))
    except IndexUnavailableError:
        return False
    return complete == count and open_jobs == 0 and confirmed_reports(database) >= count


def restart_along_the_way(
    postgres: PostgresServer, database: Database, ended: threading.Event, *, shares: Sequence[int], done: list[float]
) -> None:
    """Crash and restart the server when so many reports are proven; writes the time of each restart to `done`."""
    for share in shares:
        while confirmed_reports(database) < share:
            if ended.wait(0.2):
                return
        postgres.restart()
        done.append(time.monotonic())


def check(database: Database, uids: Sequence[str]) -> list[float]:
    """Each study has exactly one current result, nothing is dead; returns seconds from the last film to the proof."""
    with database.read() as session:
        assert not session.scalars(select(Job.key).where(Job.state == JobState.DEAD)).all()
        current = Counter(session.scalars(select(Study.study_instance_uid).join(Result).where(Result.is_current)))
        assert current == Counter(uids), "exactly one current result for each study"
        assert {row.state for row in session.scalars(select(Delivery))} <= {
            DeliveryState.CONFIRMED,
            DeliveryState.SUPERSEDED,
        }
        rows = session.execute(
            select(Study.last_instance_at, func.max(Delivery.confirmed_at))
            .join(Result, Result.study_pk == Study.id)
            .join(Result.documents)
            .join(Delivery)
            .where(Result.is_current)
            .group_by(Study.id, Study.last_instance_at)
        ).all()
    assert all(last and confirmed for last, confirmed in rows), "each study has its films and the proof of its report"
    return [(confirmed - last).total_seconds() for last, confirmed in rows if last and confirmed]


def go_through(
    folder: Path,
    postgres: PostgresServer,
    s3: S3Server,
    count: int,
    *,
    seconds: float,
    pause: float,
    times: int | None,
    restarts: int,
) -> dict[str, float]:
    """Send `count` studies through a group under misfortune; returns the table of times."""
    dice = random.Random(SEED)
    films = studies(folder / "films", count)
    database_url = postgres.new_database()
    database = Database(database_url)
    schema.upgrade(database)
    began = time.monotonic()
    with (
        running_orthanc(folder / "orthanc", dicomweb=False) as orthanc,
        running_group(
            folder / "group",
            database=database_url,
            database_port=postgres.port,
            storage=s3.new_bucket(folder),
            destination=orthanc.dicom_port,
            lease_seconds=LEASE_SECONDS,
        ) as group,
    ):
        ended = threading.Event()
        harm = functools.partial(group.harm, random.Random(SEED), ended, pause=pause, times=times)
        shares = [REPORTS * count * number // (restarts + 1) for number in range(1, restarts + 1)]
        crashes: list[float] = []
        crash = functools.partial(restart_along_the_way, postgres, database, ended, shares=shares, done=crashes)
        troubles = [threading.Thread(target=harm), threading.Thread(target=crash)]
        for trouble in troubles:
            trouble.start()
        try:
            sends = [send_until_taken(group, film, dice) for film in films]
            taken = time.monotonic() - began
            if times is not None:
                troubles[0].join()
            wait_until(
                lambda: not troubles[1].is_alive() and is_finished(database, count),
                seconds=seconds,
                what=f"all reports\n{_tails(folder)}",
            )
        finally:
            ended.set()
            for trouble in troubles:
                trouble.join()
        done = time.monotonic() - began
        spent = sorted(check(database, [film.StudyInstanceUID for film in films]))
        held = [len(orthanc.instances(Modality="SR", StudyInstanceUID=film.StudyInstanceUID)) for film in films]
        assert held == [REPORTS] * count, "the machine's and the reading report of each study, once each"
        assert min(group.events.values()) > 0, f"not everything happened: {group.events}"
        assert len(crashes) == restarts
    database.close()
    return {
        "studies": count,
        "sends": sum(sends),
        **group.events,
        "database crashed": len(crashes),
        "seconds until all were taken": taken,
        "seconds until all were proven": done,
        "median seconds of a study": statistics.median(spent),
        "95th percentile of a study": spent[math.ceil(0.95 * len(spent)) - 1],
        "longest seconds of a study": spent[-1],
    }


def _tails(folder: Path) -> str:
    return "\n".join(
        f"{log.name}: …{log.read_text('utf-8', 'replace')[-1500:]}" for log in (folder / "group").glob("*.log")
    )


@pytest.mark.timeout(300)
def test_each_study_has_one_current_report_whatever_happens_to_the_members(tmp_path: Path, s3_server: S3Server) -> None:
    with running_postgres(durable=True) as postgres:
        table = go_through(tmp_path, postgres, s3_server, 8, seconds=200, pause=2.0, times=4, restarts=1)
    print("\n".join(f"{name}: {value:.1f}" for name, value in table.items()))


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_500_studies_go_through_a_group_under_misfortune(tmp_path: Path, s3_server: S3Server) -> None:
    with running_postgres(durable=True) as postgres:
        table = go_through(tmp_path, postgres, s3_server, 500, seconds=6000, pause=4.0, times=None, restarts=3)
    print("\n".join(f"{name}: {value:.1f}" for name, value in table.items()))
