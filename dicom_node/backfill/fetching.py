"""One study of a run: is it known, bring it and its priors, judge it by its headers, and have it analysed."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.backfill.listing import has_radiograph_series
from dicom_node.backfill.settle import end_item
from dicom_node.config import QueryPeer
from dicom_node.context import NodeContext
from dicom_node.errors import RetrieveError, TooManyImagesError
from dicom_node.index.queries import study_by_uid
from dicom_node.index.tables.backfill import BackfillItem, BackfillItemState, BackfillReason, BackfillRun
from dicom_node.index.tables.core import CompletedBy, JobKind, SearchOutcome, Study, StudyPurpose, StudyState
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.due import Priority
from dicom_node.logs import get_logger
from dicom_node.priors.current import select_current
from dicom_node.priors.policy import policy_in_service
from dicom_node.priors.retrieval.fetch import Fetched, facts_of_held, fetch_study, open_archive
from dicom_node.priors.retrieval.job import search_everywhere
from dicom_node.priors.types import Refusal
from dicom_node.studies.completion import analyse_key

log = get_logger(__name__)

PRIOR_TRIES = 3
"""A study whose priors could not be had so often is analysed without them; its result says so."""
NOT_BY_HEADERS = (Refusal.UNDECIDED,)
"""Refusals that a look at the pixels, which the analysis takes, may turn round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The end of one study's fetching: skipped for a reason, or here and to be analysed (reason "")."""

    reason: str = ""
    detail: str = ""
    fetched: int = 0

    def commit(self, session: Session, run: BackfillRun, item: BackfillItem, *, now: dt.datetime) -> None:
        """Write it in the caller's transaction; the archive is charged for every study that it sent."""
        run.unreachable_times, run.held_until, run.held_reason = 0, None, ""
        item.fetched += self.fetched
        item.reason, item.detail, item.ended_at = "", "", None
        # One study was charged when the item was dispatched.
        run.next_fetch_at = max(run.next_fetch_at, now) + max(self.fetched - 1, 0) * _interval(run)
        if self.reason:
            end_item(item, BackfillItemState.SKIPPED, reason=self.reason, detail=self.detail, now=now)
        else:
            _have_analysed(session, item, now)
        log.info("backfilled study", run=run.name, state=item.state, reason=item.reason, fetched=self.fetched)


def bring(item: BackfillItem, peer: QueryPeer, node: NodeContext, *, is_last_try: bool) -> Ending:
    """Bring a study and its priors. May be done twice: what is here is not fetched again.

    Raises RetrieveError where trying again may help.
    """
    uid = item.study_instance_uid
    with node.database.read() as session:
        study = study_by_uid(session, uid)
    if study is not None and study.purpose not in (StudyPurpose.PRIOR, StudyPurpose.REPORT):
        at_work = "" if study.state is StudyState.ANALYSED else "its analysis is under way"
        return Ending(reason=BackfillReason.KNOWN, detail=at_work)
    archive = open_archive(peer, node)
    remote = archive.study(uid)
    if remote is None:
        return Ending(reason=BackfillReason.GONE, detail=f"the archive {peer.name!r} lists no such study")
    try:
        outcome = fetch_study(remote, archive, peer, node)
    except TooManyImagesError as error:
        return Ending(reason=BackfillReason.TOO_MANY, detail=str(error))
    if outcome is Fetched.UNSUITABLE:
        is_radiograph = has_radiograph_series(archive, uid)
        reason = BackfillReason.NOT_CHEST if is_radiograph else BackfillReason.NOT_RADIOGRAPH
        return Ending(reason=reason, detail="by what the archive lists of its series")
    count = int(outcome is Fetched.BROUGHT)
    refused = _refusal(uid, node)
    if refused is not None:
        return Ending(reason=refused[0], detail=refused[1], fetched=count)
    searches = search_everywhere(uid, node)
    failed = [s.detail for s in searches if s.outcome is SearchOutcome.FAILED]
    # The study itself is here. For its priors another try or two is worth the wait, and then it is analysed without
    # them.
    if failed and item.attempts + 1 < PRIOR_TRIES and not is_last_try:
        raise RetrieveError("; ".join(failed))
    return Ending(fetched=count + sum(len(s.fetched) for s in searches))


def _refusal(uid: str, node: NodeContext) -> tuple[str, str] | None:
    """Return why the study holds no frontal chest image by its headers, with the sentence; None where it may."""
    facts = facts_of_held(uid, node)
    if not facts:
        return BackfillReason.UNREADABLE, "no object of it can be read"
    choice = select_current(facts, policy_in_service(node.settings))
    if choice.chosen or choice.refusal is None or choice.refusal in NOT_BY_HEADERS:
        return None
    return choice.refusal.abstain_reason.value, choice.sentence


def _have_analysed(session: Session, item: BackfillItem, now: dt.datetime) -> None:
    """Make the fetched study one to be analysed, and enqueue that: the item's transition B, in one commit with it."""
    locked = select(Study).where(Study.study_instance_uid == item.study_instance_uid).with_for_update()
    study = session.scalars(locked).one_or_none()
    if study is None:
        raise RetrieveError("the study was removed while it was fetched")
    if study.purpose is not StudyPurpose.PRIOR:
        end_item(item, BackfillItemState.SKIPPED, reason=BackfillReason.ROUTED, now=now)
        return
    study.purpose, study.state = StudyPurpose.BACKFILL, StudyState.COMPLETE
    study.completed_at, study.completed_by = now, CompletedBy.BACKFILL
    item.state = BackfillItemState.ANALYSING
    item.study_date, item.study_time = study.study_date, study.study_time
    key = analyse_key(study.study_instance_uid, study.revision)
    payload = {"study_instance_uid": study.study_instance_uid, "revision": study.revision, "generation": 1}
    if not jobs.enqueue(session, JobKind.ANALYSE, key, payload, priority=Priority.BULK):
        jobs.restart(session, key)


def _interval(run: BackfillRun) -> dt.timedelta:
    return dt.timedelta(minutes=1) / run.per_minute
