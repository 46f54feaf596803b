"""Retention removes what it may and nothing else; each removal is audited and leaves no file."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import generate_uid
from sqlalchemy import delete, func, select, update

from dicom_node.config import RetentionSection
from dicom_node.context import NodeContext
from dicom_node.dicom.part10 import FileMeta
from dicom_node.index.tables.core import (
    AuditEvent,
    Delivery,
    DeliveryState,
    Hold,
    Instance,
    Job,
    JobKind,
    JobState,
    Outcome,
    Result,
    Series,
    Study,
    StudyState,
)
from dicom_node.jobs import queue as jobs
from dicom_node.retention import removal as retention
from dicom_node.retention.candidates import RetentionCandidate
from dicom_node.retention.disk import Usage
from dicom_node.retention.removal import GIGABYTE, RemovalReason, plan
from tests.support.delivery_node import START, Clock, make_node, make_result

PACS = {"name": "pacs", "port": 1}


def candidate(pk: int, *, days_old: float, needed: bool = False, size: int = 100) -> RetentionCandidate:
    return RetentionCandidate(
        study_pk=pk,
        study_instance_uid=f"1.2.{pk}",
        patient=("p", ""),
        study_date="20250101",
        last_instance_at=START - dt.timedelta(days=days_old),
        size_bytes=size,
        needed_as_prior=needed,
    )


def chosen(candidates: list[RetentionCandidate], usage: Usage, **settings: float) -> list[tuple[int, RemovalReason]]:
    removals = plan(candidates, usage, RetentionSection(**settings), START)
    return [(removal.candidate.study_pk, removal.why) for removal in removals]


PLENTY = Usage(total=10_000, free=9_000, images=1_000)


def test_age_takes_what_is_older_and_not_needed() -> None:
    studies = [candidate(1, days_old=400), candidate(2, days_old=400, needed=True), candidate(3, days_old=10)]
    assert chosen(studies, PLENTY, keep_days=365) == [(1, RemovalReason.AGE)]
    assert chosen(studies, PLENTY) == []


def test_size_and_disk_take_the_oldest_until_it_fits() -> None:
    studies = [candidate(pk, days_old=pk, size=GIGABYTE) for pk in (1, 2, 3)]
    full = Usage(total=100 * GIGABYTE, free=50 * GIGABYTE, images=3 * GIGABYTE)
    assert chosen(studies, full, max_gigabytes=1.5) == [(3, RemovalReason.SIZE), (2, RemovalReason.SIZE)]
    low = Usage(total=100 * GIGABYTE, free=8 * GIGABYTE, images=3 * GIGABYTE)
    assert chosen(studies, low, keep_free_percent=10) == [(3, RemovalReason.DISK), (2, RemovalReason.DISK)]


def test_an_emergency_takes_priors_last_and_stops_as_soon_as_it_is_over() -> None:
    studies = [candidate(1, days_old=9, needed=True), candidate(2, days_old=5), candidate(3, days_old=1, needed=True)]
    studies = [candidate(c.study_pk, days_old=c.study_pk, needed=c.needed_as_prior, size=2) for c in studies]
    low = Usage(total=100, free=0, images=6)
    assert chosen(studies, low, emergency_free_percent=4) == [(2, RemovalReason.DISK), (3, RemovalReason.EMERGENCY)]


@given(
    st.lists(st.tuples(st.floats(0, 3000), st.booleans(), st.integers(1, 50)), max_size=12),
    st.integers(0, 100),
    st.floats(0, 2000),
)
def test_a_needed_prior_goes_only_in_an_emergency(
    raw: list[tuple[float, bool, int]], free: int, keep_days: float
) -> None:
    studies = [candidate(i, days_old=d, needed=n, size=s) for i, (d, n, s) in enumerate(raw)]
    usage = Usage(total=100, free=free, images=sum(s for _, _, s in raw))
    settings = RetentionSection(keep_days=keep_days)
    for removal in plan(studies, usage, settings, START):
        assert not removal.candidate.needed_as_prior or removal.why is RemovalReason.EMERGENCY
        assert removal.why is not RemovalReason.EMERGENCY or free < settings.emergency_free_percent


def study_with_image(node: NodeContext, *, patient: str, days_old: int, deliver: bool = True) -> str:
    """An analysed study with one stored image and its documents, delivered where wanted; its UID."""
    uid = generate_uid()
    make_result(node, study_uid=uid)
    meta = FileMeta(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        sop_instance_uid=generate_uid(),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    stored = node.store.put(b"pixels" * 100, meta)
    at = node.clock() - dt.timedelta(days=days_old)
    with node.database.write() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()
        study.patient_id, study.state, study.study_date = patient, StudyState.ANALYSED, f"{at:%Y%m%d}"
        study.first_instance_at = study.last_instance_at = at
        series = Series(study_pk=study.id, series_instance_uid=generate_uid())
        session.add(series)
        session.flush()
        session.add(
            Instance(
                series_pk=series.id,
                sop_instance_uid=meta.sop_instance_uid,
                sop_class_uid=meta.sop_class_uid,
                transfer_syntax_uid=meta.transfer_syntax_uid,
                path=stored.path,
                sha256=stored.sha256,
                size_bytes=stored.size_bytes,
                received_at=at,
            )
        )
        if deliver:
            session.execute(update(Delivery).values(state=DeliveryState.CONFIRMED))
            session.execute(update(Job).values(state=JobState.DONE))
    return uid


def old_ones(node: NodeContext) -> set[str]:
    return {removal.candidate.study_instance_uid for removal in retention.plan_now(node)}


@pytest.fixture
def node(tmp_path: Path) -> NodeContext:
    return make_node(tmp_path, Clock(), PACS, retention={"keep_days": 30, "keep_as_prior_days": 1825})


def test_the_newest_two_of_a_patient_stay_as_priors(node: NodeContext) -> None:
    uids = [study_with_image(node, patient="A", days_old=days) for days in (100, 200, 300, 4000)]
    lone = study_with_image(node, patient="B", days_old=2000)
    assert old_ones(node) == {uids[2], uids[3], lone}


def test_what_has_no_images_or_could_not_be_analysed_pushes_no_prior_out(node: NodeContext) -> None:
    film = study_with_image(node, patient="A", days_old=200)
    for days in (100, 90, 80, 70):
        newer = study_with_image(node, patient="A", days_old=days)
        with node.database.write() as session:
            study = session.scalars(select(Study).where(Study.study_instance_uid == newer)).one()
            if days > 80:  # a report alone, or its images went
                session.execute(delete(Instance).where(Instance.series_pk.in_([s.id for s in study.series])))
            else:  # a hand
                study.results[0].outcome = Outcome.NOT_ANALYSED
    assert film not in old_ones(node), "it is the newest chest film that there is"
    for days in (60, 50):
        study_with_image(node, patient="A", days_old=days)
    assert film in old_ones(node)


def test_results_from_before_there_was_a_destination_do_not_count_as_delivered(tmp_path: Path) -> None:
    wide = {"keep_days": 30, "keep_as_prior_days": 0}
    alone = make_node(tmp_path, Clock(), retention=wide)
    uid = study_with_image(alone, patient="A", days_old=4000)
    node = make_node(tmp_path, Clock(), PACS, retention=wide)
    assert old_ones(node) == set(), "nobody but us has these results"
    nobody = {**PACS, "outcomes": ["not analysed"]}
    assert old_ones(make_node(tmp_path, Clock(), nobody, retention=wide)) == {uid}, "and by the rules nobody gets them"


def test_images_that_a_challenger_still_has_to_see_stay(node: NodeContext) -> None:
    uid = study_with_image(node, patient="A", days_old=4000)
    with node.database.write() as session:
        result = session.scalars(select(Result)).one()
        payload = {"result_pk": result.id, "folder": "challenger"}
        jobs.enqueue(session, JobKind.SHADOW, "shadow:1", payload)
    assert uid not in old_ones(node)


def test_what_is_not_proven_held_or_still_worked_on_stays(node: NodeContext) -> None:
    held = study_with_image(node, patient="A", days_old=3000)
    worked = study_with_image(node, patient="B", days_old=3000)
    free = study_with_image(node, patient="C", days_old=3000)
    unproven = study_with_image(node, patient="D", days_old=3000, deliver=False)
    now = node.clock()
    with node.database.write() as session:
        session.add(Hold(study_instance_uid=held, holder="snapshot 1", created_at=now))
        from dicom_node.admin import operations

        operations.reprocess(session, worked, settings=node.settings, now=now, who="test")
    assert old_ones(node) == {free}
    with node.database.write() as session:
        rows = session.scalars(select(Delivery).where(Delivery.state == DeliveryState.PENDING))
        for row in rows:
            row.state = DeliveryState.STORED
    assert unproven not in old_ones(node), "accepted is not proven"


def test_without_a_destination_nothing_is_proven(tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock(), retention={"keep_days": 30})
    study_with_image(node, patient="A", days_old=4000)
    assert old_ones(node) == set()


def test_a_removal_takes_files_and_rows_and_leaves_an_audit_message_and_the_result(node: NodeContext) -> None:
    uid = study_with_image(node, patient="A", days_old=4000)
    assert len(list(node.store.iterate_paths())) == 1
    retention.run(node)
    assert list(node.store.iterate_paths()) == []
    with node.database.read() as session:
        assert session.scalar(select(func.count(Instance.id))) == 0
        study = session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()
        assert len(study.results) == 1
        (message,) = session.scalars(select(AuditEvent.message).where(AuditEvent.event_id == "110105"))
    assert uid in message
    assert 'EventActionCode="D"' in message


def test_a_study_that_is_held_after_the_plan_was_made_stays(node: NodeContext) -> None:
    uid = study_with_image(node, patient="A", days_old=4000)
    removals = retention.plan_now(node)
    with node.database.write() as session:
        session.add(Hold(study_instance_uid=uid, holder="snapshot 2", created_at=node.clock()))
    assert retention.carry_out(node, removals) == 0
    assert len(list(node.store.iterate_paths())) == 1
