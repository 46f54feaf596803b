"""The FETCH job: ask every query peer for earlier studies of a study's patient and bring what may be a prior.

The story: what do we have → what does the peer list → what of it may be newer → which series → retrieve → count.
A peer's "success" is believed when as many images are in the index as it listed. Whatever fails ends in a sentence that
stands in the report; it never stops the analysis.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_node.config import QueryPeer
from dicom_node.context import NodeContext
from dicom_node.errors import RetrieveError
from dicom_node.index.queries import instances_of_study, prior_candidates, study_by_uid
from dicom_node.index.tables.core import PriorSearch, SearchOutcome, Study
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.logs import bound, get_logger
from dicom_node.priors.choose import choose_prior
from dicom_node.priors.facts import facts_of_rows, patient_of_row
from dicom_node.priors.identity import linked_ids
from dicom_node.priors.policy import policy_in_service
from dicom_node.priors.retrieval import prefetch
from dicom_node.priors.retrieval.archive import RemoteStudy, date_range, select_studies
from dicom_node.priors.retrieval.fetch import Fetched, fetch_study, holds_frontal_chest, open_archive
from dicom_node.priors.types import ImageFacts, PriorPolicy
from dicom_node.studies.received_instance import PRIOR

log = get_logger(__name__)

TRIES = 3
"""So often is a failed search tried again at once (with the queue's back-off), while the analysis still waits."""
STUDIES_LOOKED_INTO = 4
"""For each study that may be fetched so many are asked for their series."""
MOST_IDS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFacts:
    """Facts known before asking. current: the study as a peer would list it. newer_than: the best held prior's
    moment."""

    current: RemoteStudy
    patient_ids: tuple[str, ...]
    held: frozenset[str]
    newer_than: tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The outcome of asking one peer; see `tables.PriorSearch`."""

    peer: str
    outcome: SearchOutcome
    detail: str
    found: int = 0
    fetched: tuple[str, ...] = ()


def handle(job: ClaimedJob, node: NodeContext) -> None:
    """Do one FETCH job and end it. Raises RetrieveError where a peer failed and trying again soon may help."""
    uid = str(job.payload["study_instance_uid"])
    attempt = int(job.payload.get("attempt", 1))
    with bound(job=job.key):
        searches = search_everywhere(uid, node)
    failed = [s for s in searches if s.outcome is SearchOutcome.FAILED]
    # A peer that failed is asked again soon by the queue; after the last try the study goes on without, and is tried
    # later.
    if failed and job.attempts < TRIES and not node.stop.is_set():
        raise RetrieveError("; ".join(s.detail for s in failed))
    with node.database.write() as session:
        now = node.clock()
        jobs.complete(session, job)
        study = study_by_uid(session, uid)
        if study is not None and any(s.fetched for s in searches):
            prefetch.report_anew_if_late(session, study, node.settings, now=now)
        if study is not None and failed:
            _try_later(session, uid, attempt, node, now)


def search_everywhere(study_instance_uid: str, node: NodeContext) -> list[Search]:
    """Ask every query peer for priors of a held study, fetch them, and keep the answers beside the study."""
    policy = policy_in_service(node.settings)
    with node.database.read() as session:
        study = study_by_uid(session, study_instance_uid)
        have = _have(session, study, policy) if study is not None and study.study_date else None
    searches = [] if have is None else [search(peer, have, policy, node) for peer in node.settings.query]
    for s in searches:
        log.info("priors searched", peer=s.peer, outcome=s.outcome, found=s.found, fetched=len(s.fetched))
    with node.database.write() as session:
        _record(session, study_instance_uid, searches, node.clock())
    return searches


def search(peer: QueryPeer, have: SearchFacts, policy: PriorPolicy, node: NodeContext) -> Search:
    """Ask one peer and fetch from it. Never raises RetrieveError: a failure is an outcome."""
    archive = open_archive(peer, node)
    fetched: list[str] = []
    failures: list[str] = []
    useful = 0
    try:
        dates = date_range(have.current.study_date, policy.look_back_days)
        listed = [study for patient_id in have.patient_ids for study in archive.studies(patient_id, dates)]
        selected = select_studies(have.current, listed, policy, held=have.held, newer_than=have.newer_than)
    except RetrieveError as error:
        return Search(peer=peer.name, outcome=SearchOutcome.FAILED, detail=_sentence(str(error)))
    limit = node.settings.priors.fetch_studies
    # More are looked into than wanted, because some turn out to hold no frontal chest film.
    for study in selected.studies[: STUDIES_LOOKED_INTO * limit]:
        # A failure counts as one of the wanted: otherwise a broken archive would be asked for every study it lists.
        if useful + len(failures) >= limit or node.stop.is_set():
            break
        try:
            if fetch_study(study, archive, peer, node) is Fetched.BROUGHT:
                fetched.append(study.study_instance_uid)
                useful += holds_frontal_chest(study.study_instance_uid, policy, node)
        except RetrieveError as error:
            failures.append(_sentence(str(error)))
    notes = [*failures, *selected.passed_over]
    if failures:
        outcome = SearchOutcome.FAILED
    elif fetched:
        outcome = SearchOutcome.FETCHED
    else:
        outcome = SearchOutcome.NOTHING
        notes.append(f"The archive {peer.name!r} lists no earlier chest radiograph of this patient that is not here.")
    return Search(
        peer=peer.name, outcome=outcome, detail=" ".join(notes), found=len(selected.studies), fetched=tuple(fetched)
    )


def _have(session: Session, study: Study, policy: PriorPolicy) -> SearchFacts:
    """Ourselves: the study, its patient's IDs, what we hold, and how new our best prior is."""
    patient = patient_of_row(study)
    others = linked_ids(patient, policy)
    candidates = prior_candidates(session, study, look_back_days=policy.look_back_days, other_ids=others)
    own = instances_of_study(session, study.id)
    facts = [facts_of_rows(row.series.study, row.series, row) for row in candidates]
    best: ImageFacts | None = None
    if own:
        best = choose_prior(facts_of_rows(study, own[0].series, own[0]), facts, policy).prior
    ids = dict.fromkeys((study.patient_id, *others))
    return SearchFacts(
        current=RemoteStudy(
            study_instance_uid=study.study_instance_uid,
            patient=patient,
            study_date=study.study_date,
            study_time=study.study_time,
        ),
        patient_ids=tuple(i for i in ids if i)[:MOST_IDS],
        # What was routed to us is whole or on its way; of a fetched study we may lack images.
        held=frozenset(row.series.study.study_instance_uid for row in candidates if row.series.study.purpose != PRIOR),
        newer_than=(best.study_date, best.study_time) if best is not None else ("", ""),
    )


def _record(session: Session, uid: str, searches: Sequence[Search], now: dt.datetime) -> None:
    study = study_by_uid(session, uid)
    if study is None:
        return
    session.execute(delete(PriorSearch).where(PriorSearch.study_pk == study.id))
    for s in searches:
        session.add(
            PriorSearch(
                study_pk=study.id,
                peer=s.peer,
                outcome=s.outcome,
                detail=s.detail,
                found=s.found,
                fetched=list(s.fetched),
                searched_at=now,
            )
        )


def _try_later(session: Session, uid: str, attempt: int, node: NodeContext, now: dt.datetime) -> None:
    """Ask again much later where the site wants it: the archive may be back in the morning."""
    priors = node.settings.priors
    if priors.retry_seconds > 0 and attempt <= priors.retry_times:
        run_at = now + dt.timedelta(seconds=priors.retry_seconds)
        prefetch.enqueue(session, uid, now=now, attempt=attempt + 1, run_at=run_at)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
