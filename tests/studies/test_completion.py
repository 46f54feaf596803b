"""When a study is complete, on both databases: quiet, count, deadline, forced; late images; what is never analysed."""

from __future__ import annotations

import dataclasses
import threading

from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.config import CompletionSection
from dicom_node.index.database import Database
from dicom_node.index.tables.core import StudyState
from dicom_node.studies.completion import analyse_key, close_counted, force, sweep
from dicom_node.studies.register import Registered
from tests.support.index import after, arrive, job_keys, received, study, study_uid

COMPLETION = CompletionSection(quiet_seconds=60, deadline_seconds=600)


def swept(database: Database, seconds: float) -> list[str]:
    with database.write() as session:
        return sweep(session, completion=COMPLETION, now=after(seconds))


def key(name: str = "s", revision: int = 1) -> str:
    return analyse_key(study_uid(name), revision)


def test_quiet_over_all_series(database: Database) -> None:
    arrive(database, received(number=1), after(0))
    arrive(database, received(number=2), after(50))
    assert swept(database, 109) == []
    assert study(database).state is StudyState.OPEN
    assert swept(database, 110) == [study_uid("s")]
    closed = study(database)
    assert (closed.state, closed.completed_by, closed.completed_at) == (StudyState.COMPLETE, "quiet", after(110))
    assert job_keys(database) == [key()]
    assert swept(database, 111) == []
    assert job_keys(database) == [key()]


def test_the_deadline_processes_and_flags_what_never_gets_quiet(database: Database) -> None:
    for number in range(25):
        arrive(database, received(number=number), after(number * 25))
        assert swept(database, number * 25 - 1) == []
    assert swept(database, 600) == [study_uid("s")]
    assert study(database).completed_by == "deadline"
    assert job_keys(database) == [key()]


def test_a_late_image_opens_again_with_a_deadline_of_its_own(database: Database) -> None:
    arrive(database, received(number=1), after(0))
    swept(database, 60)
    arrive(database, received(number=2), after(5000))
    late = study(database)
    assert (late.state, late.revision, late.opened_at) == (StudyState.OPEN, 2, after(5000))
    assert swept(database, 5001) == [], "its deadline runs from the late image, not from the first one"
    arrive(database, received(number=3), after(5030))
    assert swept(database, 5060) == []
    assert swept(database, 5090) == [study_uid("s")]
    assert job_keys(database) == [key(revision=1), key(revision=2)]
    assert study(database).completed_by == "quiet"


def test_the_same_image_again_is_no_late_image(database: Database) -> None:
    arrive(database, received(), after(0))
    swept(database, 60)
    assert arrive(database, received(), after(70)).outcome is Registered.DUPLICATE
    assert study(database).revision == 1
    assert swept(database, 500) == []


def test_count_agreement_closes_at_once_and_only_then(database: Database) -> None:
    arrive(database, received(number=1), after(0))
    arrive(database, received(number=2), after(1))
    for count in (0, 1, 3):
        with database.write() as session:
            assert not close_counted(session, study_instance_uid=study_uid("s"), count=count, now=after(2))
    with database.write() as session:
        assert close_counted(session, study_instance_uid=study_uid("s"), count=2, now=after(2))
    assert study(database).completed_by == "count"
    assert job_keys(database) == [key()]


def test_forced(database: Database) -> None:
    arrive(database, received(), after(0))
    with database.write() as session:
        assert force(session, study_instance_uid=study_uid("s"), now=after(1))
        assert not force(session, study_instance_uid=study_uid("s"), now=after(2))
    assert study(database).completed_by == "forced"


def test_a_fetched_prior_is_closed_and_never_analysed_until_it_is_sent_to_us(database: Database) -> None:
    arrive(database, received(purpose="prior"), after(0))
    assert swept(database, 60) == [study_uid("s")]
    assert job_keys(database) == []
    # The archive, a named peer, routes it now in another transfer syntax: the same object, and no conflict.
    routed = dataclasses.replace(received(syntax=ImplicitVRLittleEndian, content="other bytes"), is_trusted=True)
    assert arrive(database, routed, after(100)).outcome is Registered.REPLACED
    promoted = study(database)
    assert (promoted.purpose, promoted.state) == ("routed", StudyState.OPEN)
    assert swept(database, 160) == [study_uid("s")]
    assert job_keys(database) == [key()]


def test_a_routed_study_that_is_fetched_too_stays_routed(database: Database) -> None:
    arrive(database, received(), after(0))
    assert arrive(database, received(purpose="prior", content="other"), after(1)).outcome is Registered.DUPLICATE
    arrive(database, received(number=2, purpose="prior"), after(2))
    assert study(database).purpose == "routed"
    swept(database, 62)
    assert job_keys(database) == [key()]


def test_other_content_under_the_same_uid_is_still_a_conflict(database: Database) -> None:
    arrive(database, received(), after(0))
    assert arrive(database, received(content="other"), after(1)).outcome is Registered.CONFLICT


def test_many_sweeps_and_receivers_at_once_make_one_job_for_each_revision(database: Database) -> None:
    """Four sweeps run against two receivers; whatever the interleaving, each closed revision has exactly one job."""
    for name in "abcdef":
        arrive(database, received(name), after(0))
    start = threading.Barrier(6)
    closed: list[str] = []

    def sweeping() -> None:
        start.wait()
        for _ in range(5):
            closed.extend(swept(database, 60))

    def receiving(numbers: range) -> None:
        start.wait()
        for number in numbers:
            for name in "abcdef":
                arrive(database, received(name, number), after(0))

    threads = [threading.Thread(target=sweeping) for _ in range(4)]
    threads += [threading.Thread(target=receiving, args=(range(n, n + 5),)) for n in (10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    closed.extend(swept(database, 60))
    keys = job_keys(database)
    assert len(keys) == len(closed)
    for name in "abcdef":
        revisions = study(database, name).revision
        assert [key(name, n) for n in range(1, revisions + 1)] == sorted(
            (k for k in keys if study_uid(name) in k), key=lambda k: int(k.split(":")[2])
        )
