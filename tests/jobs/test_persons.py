"""Of one person's analyses only one runs at a time, on whatever worker; nothing else waits for it."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
from sqlalchemy import select

from dicom_node.index.database import Database
from dicom_node.index.tables.core import Job, JobKind, JobState, Study
from dicom_node.jobs import backlog
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.due import Priority
from dicom_node.jobs.queue import ClaimedJob

NOW = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
ANALYSE = (JobKind.ANALYSE,)


@pytest.fixture(autouse=True)
def _time_stands_still(database: Database) -> None:
    database.clock = lambda: NOW


def add(
    database: Database,
    uid: str,
    patient_id: str,
    *,
    issuer: str = "",
    key: str = "",
    priority: Priority = Priority.ROUTINE,
) -> None:
    """A study and its analysis; where key is given, a further analysis of a study that is there."""
    with database.write() as session:
        if not key:
            study = Study(study_instance_uid=uid, patient_id=patient_id, issuer_of_patient_id=issuer)
            study.first_instance_at = study.last_instance_at = NOW
            session.add(study)
        payload = {"study_instance_uid": uid, "revision": 1}
        jobs.enqueue(session, JobKind.ANALYSE, key or uid, payload, run_at=NOW, priority=priority)


def take(database: Database, kinds: tuple[JobKind, ...] = ANALYSE) -> ClaimedJob | None:
    with database.write() as session:
        return jobs.claim(session, kinds=kinds, owner="w")


def taken(database: Database, kinds: tuple[JobKind, ...] = ANALYSE) -> str:
    job = take(database, kinds)
    return "" if job is None else job.key


def end(database: Database, job: ClaimedJob | None) -> None:
    assert job is not None
    with database.write() as session:
        jobs.complete(session, job)


def due_now(database: Database) -> tuple[float | None, int]:
    """Seconds until the next analysis, and the number that a lane may claim."""
    with database.read() as session:
        return (
            backlog.seconds_to_next(session, ANALYSE, within=SECOND),
            backlog.count_due(session, JobKind.ANALYSE, most=9),
        )


@pytest.mark.parametrize("kinds", [ANALYSE, tuple(JobKind)])
def test_a_persons_next_film_waits_for_the_one_in_hand(database: Database, kinds: tuple[JobKind, ...]) -> None:
    add(database, "1", "P")
    add(database, "2", "P", issuer="another that may be the same")
    add(database, "3", "Q")
    first = take(database, kinds)
    assert first is not None
    assert first.key == "1"
    assert due_now(database) == (0.0, 1)
    assert taken(database, kinds) == "3"
    assert due_now(database) == (None, 0)
    assert taken(database, kinds) == ""
    end(database, first)
    assert due_now(database) == (0.0, 1)
    assert taken(database, kinds) == "2"


def test_a_film_of_bulk_work_waits_for_tonights_of_the_same_person(database: Database) -> None:
    add(database, "old", "P", priority=Priority.BULK)
    add(database, "new", "P")
    add(database, "other", "Q", priority=Priority.BULK)
    assert [taken(database) for _ in range(3)] == ["new", "other", ""]


def test_studies_without_an_id_are_no_one_person(database: Database) -> None:
    add(database, "1", "")
    add(database, "2", "")
    add(database, "1", "", key="1 again")
    assert [taken(database) for _ in range(3)] == ["1", "2", ""]


def test_an_analysis_of_no_known_study_holds_nobody_up(database: Database) -> None:
    with database.write() as session:
        for key, payload in (("no payload", {}), ("gone", {"study_instance_uid": "9"}), ("null", {"study": None})):
            jobs.enqueue(session, JobKind.ANALYSE, key, payload, run_at=NOW)
    add(database, "1", "P")
    assert [taken(database) for _ in range(5)] == ["no payload", "gone", "null", "1", ""]


def test_other_work_of_a_person_goes_on_beside_an_analysis(database: Database) -> None:
    add(database, "1", "P")
    assert taken(database) == "1"
    with database.write() as session:
        jobs.enqueue(session, JobKind.FETCH, "fetch", {"study_instance_uid": "1"}, run_at=NOW)
    assert taken(database, tuple(JobKind)) == "fetch"


def test_the_film_of_a_lost_worker_goes_first_and_the_next_one_after_it(database: Database) -> None:
    add(database, "1", "P")
    add(database, "2", "P")
    assert taken(database) == "1"
    database.clock = lambda: NOW + jobs.LEASE - SECOND
    assert taken(database) == "", "a worker that is still thought to live keeps its person"
    database.clock = lambda: NOW + jobs.LEASE + SECOND
    with database.write() as session:
        assert jobs.rescue(session) == ["1"]
    again = take(database)
    assert again is not None
    assert again.key == "1"
    assert taken(database) == ""
    end(database, again)
    assert taken(database) == "2"


def test_a_film_that_failed_lets_the_persons_next_one_go(database: Database) -> None:
    add(database, "1", "P")
    add(database, "2", "P")
    first = take(database)
    assert first is not None
    with database.write() as session:
        jobs.fail(session, first, "not this time")
    assert taken(database) == "2"


def test_claims_at_the_same_time_never_take_one_persons_films(database: Database) -> None:
    """Six threads, each with its own connection, over eight films of each of four persons."""
    total = 32
    for number in range(total):
        add(database, str(number), f"P{number % 4}")
    done: list[str] = []
    broken: list[set[str]] = []
    start = threading.Barrier(6)

    def work(owner: str) -> None:
        start.wait()
        while len(done) < total:
            with database.write() as session:
                job = jobs.claim(session, kinds=ANALYSE, owner=owner)
            if job is None:
                continue
            with database.read() as session:
                running = session.scalars(select(Job.key).where(Job.state == JobState.RUNNING)).all()
            of_person = {key for key in running if int(key) % 4 == int(job.key) % 4}
            broken.extend([of_person] if len(of_person) > 1 else [])
            done.append(job.key)
            with database.write() as session:
                jobs.complete(session, job)

    threads = [threading.Thread(target=work, args=(f"w{n}",), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert broken == []
    assert sorted(done, key=int) == [str(number) for number in range(total)]
