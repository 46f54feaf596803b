"""The ANALYSE job: a complete study revision becomes results, documents on the disk and deliveries, in one commit."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydicom import Dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.analysis.chart import KnownChart, known_chart
from dicom_node.analysis.earlier_results import EarlierResults
from dicom_node.analysis.later_studies import report_next_anew
from dicom_node.analysis.outputs import write_result
from dicom_node.analysis.predecessors import predecessors_of, replacing_all
from dicom_node.analysis.prepared import AnalysisInputs
from dicom_node.analysis.result_rows import Finished, document_row, result_row
from dicom_node.analysis.stored_images import StoredImage, damaged_image, read_stored
from dicom_node.analysis.study import analyse_study
from dicom_node.context import NodeContext
from dicom_node.deliver.queue import enqueue_deliveries
from dicom_node.drift.record import statistics_of
from dicom_node.errors import AnalysisError, StorageError
from dicom_node.index.queries import instances_of_study, prior_candidates, study_by_uid
from dicom_node.index.tables.core import Instance, Job, Result, Study, StudyPurpose, StudyState
from dicom_node.index.tables.models import PairStatistics
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.jobs.worker import Handler
from dicom_node.logs import bound, get_logger
from dicom_node.priors import linked_ids, patient_of_row, policy_in_service
from dicom_node.priors.disputes import DISPUTED, find_disputed_uids
from dicom_node.priors.retrieval import prefetch
from dicom_node.priors.search_notes import search_notes
from dicom_node.report.documents import STANDARD_KINDS, build_documents
from dicom_node.report.request import DocumentKind, PredecessorDocument, ReportRequest
from dicom_node.serving import shadow
from dicom_node.serving.champion import ServingModels
from dicom_node.serving.predictor import PairPredictor
from dicom_node.storage.instance_store import StoreUnavailableError
from dicom_node.studies.backfilled import is_report_wanted, priority_of
from dicom_node.studies.received_reports import result_came
from model.errors import PixelError
from model.images.sandbox import decode_in_child

log = get_logger(__name__)

MODEL_TRIES = 3
"""A model that failed so often on one study fails because of it: the report then says so."""


def handler(models: ServingModels) -> Handler:
    """The job's handler over the models in service; one of them answers a whole study."""

    def handle(job: ClaimedJob, node: NodeContext) -> None:
        with bound(job=job.key):
            _handle(job, node, models)

    return handle


def _handle(job: ClaimedJob, node: NodeContext, models: ServingModels) -> None:
    uid, revision = str(job.payload["study_instance_uid"]), int(job.payload["revision"])
    generation = int(job.payload.get("generation", 1))
    if _waits_for_priors(job, node, uid):
        return
    with node.database.read() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == uid)).one_or_none()
        rows = instances_of_study(session, study.id) if study is not None else []
        candidates = _candidates(session, study, node) if study is not None else []
        # The job's own date, not the clock: a second try after a crash makes the same bytes.
        produced_at = session.scalars(select(Job.created_at).where(Job.id == job.id)).one()
    if study is None or study.revision != revision or not rows:
        # Purged, or a late image re-opened it: the newer revision has a job of its own.
        log.info("analysis is out of date and left", wanted_revision=revision)
        with node.database.write() as session:
            jobs.complete(session, job)
        return
    earlier_results = EarlierResults(node)
    with models.lease() as predictor:
        setting = _setting(node, study, produced_at, predictor, earlier_results)
        last_try = job.attempts >= MODEL_TRIES
        setting = replace(setting, revision=revision, generation=generation, last_try=last_try)
        images, earlier = (_read(some, node, last_try=last_try) for some in (rows, candidates))
        requests = analyse_study(images, earlier, setting)
    requests = replacing_all(requests, node, study)
    finished = [_write(request, node) for request in requests]
    _commit(job, node, study.id, finished, earlier_results)


def _candidates(session: Session, study: Study, node: NodeContext) -> list[Instance]:
    """Instances that the rules may look at: under this ID, and under any other that is said to be this person's."""
    policy = policy_in_service(node.settings)
    others = linked_ids(patient_of_row(study), policy)
    return prior_candidates(session, study, look_back_days=policy.look_back_days, other_ids=others)


def _waits_for_priors(job: ClaimedJob, node: NodeContext, study_instance_uid: str) -> bool:
    """Give the job back while the study's priors are being fetched; no attempt is counted."""
    if not prefetch.is_configured(node.settings):
        return False  # without a transaction, which would wait for every other writer
    now = node.clock()
    with node.database.write() as session:
        study = study_by_uid(session, study_instance_uid)
        until = prefetch.wait_for_priors(session, study, node.settings, now=now) if study is not None else None
        if until is not None:
            jobs.postpone(session, job, until=until)
    return until is not None


def _read(rows: Sequence[Instance], node: NodeContext, *, last_try: bool) -> list[StoredImage]:
    """The stored objects of these rows; of one that cannot be read, what the index knows, marked as damaged.

    Raises AnalysisError where the file system failed and may not fail the next time.
    """
    images = []
    for row in rows:
        path = Path(row.path)
        try:
            path = node.store.path(row.path)
            images.append(read_stored(path))
        except StoreUnavailableError as error:
            raise AnalysisError(f"a stored file cannot be read: {error}") from error
        except (PixelError, StorageError) as error:
            # A fault of the file system may pass, so the job is tried again; on the last try, as for a broken file, the
            # study is analysed without this object rather than not at all.
            if isinstance(error.__cause__, OSError) and not last_try:
                raise AnalysisError(f"a stored file cannot be read: {error.__cause__.strerror}") from error
            log.error("stored object cannot be read", instance_pk=row.id, error=str(error))
            images.append(damaged_image(row, path, str(error)))
    claimed = find_disputed_uids(
        node, {image.facts.sop_instance_uid: image.facts.patient for image in images}, policy_in_service(node.settings)
    )
    return [
        replace(image, facts=replace(image.facts, disputed=DISPUTED))
        if image.facts.sop_instance_uid in claimed
        else image
        for image in images
    ]


def _setting(
    node: NodeContext, study: Study, produced_at: dt.datetime, predictor: PairPredictor, earlier: EarlierResults
) -> AnalysisInputs:
    def predecessors(sop_instance_uid: str) -> tuple[PredecessorDocument, ...]:
        with node.database.read() as session:
            return predecessors_of(session, study, sop_instance_uid)

    def chart(header: Dataset) -> KnownChart | None:
        with node.database.read() as session:
            return known_chart(session, header, node.settings.chart, policy_in_service(node.settings))

    with node.database.read() as session:
        comparison_notes = search_notes(session, study)
    return AnalysisInputs(
        predictor=predictor,
        comparison_notes=comparison_notes,
        decode=decode_in_child,
        policy=policy_in_service(node.settings),
        produced_at=produced_at,
        language=node.settings.node.language,
        predecessors=predecessors,
        readings=earlier.read,
        chart=chart,
        reads_unfamiliar=node.settings.model.unfamiliar == "warn",
    )


def _write(request: ReportRequest, node: NodeContext) -> Finished:
    """Documents on the disk before the row that names them; written again with the same bytes after a crash."""
    documents = build_documents(request, kinds=_kinds(node))
    name = hashlib.sha256("\x1f".join(d.sop_instance_uid for d in documents).encode()).hexdigest()[:32]
    relative = Path(name[:2]) / name
    digests = write_result(node.documents, relative.as_posix(), request, documents)
    return Finished(request=request, documents=documents, folder=relative, digests=digests)


def _kinds(node: NodeContext) -> tuple[DocumentKind, ...]:
    """The two reports always; a PDF or a capture where a destination asks for it."""
    asked = {DocumentKind(kind) for destination in node.settings.destinations for kind in destination.documents}
    return tuple(kind for kind in DocumentKind if kind in asked | set(STANDARD_KINDS))


def _commit(
    job: ClaimedJob, node: NodeContext, study_pk: int, finished: Sequence[Finished], earlier: EarlierResults
) -> None:
    """Results, documents, deliveries, the study's state and the end of the job: all or nothing."""
    now = node.clock()
    statistics = [statistics_of(analysed.request, now=now) for analysed in finished]
    with node.database.write() as session:
        if earlier.have_changed(session):
            log.info("a result on an earlier film came during the analysis; it is done once more")
            jobs.postpone(session, job)
            return
        # Before anything is written, for it is fenced by the lease: what follows is written only by the worker that
        # still holds the job. And a job whose analysis is out of date ends all the same.
        jobs.complete(session, job)
        study = session.get_one(Study, study_pk)
        if study.revision != int(job.payload["revision"]):
            log.info("a late image came during the analysis; its own job follows")
            return
        if _is_overtaken(session, study, int(job.payload.get("generation", 1))):
            log.info("a newer analysis of this revision was faster; this one is left")
            return
        before = _supersede(session, study_pk)
        superseded = {row.sop_instance_uid: row.id for row in before}
        after = [
            _store(session, node, study, analysed, seen, superseded, now=now)
            for analysed, seen in zip(finished, statistics, strict=True)
        ]
        study.state = StudyState.ANALYSED
        result_came(session, study.study_instance_uid, now=now)
        report_next_anew(session, job, study, before=before, after=after, settings=node.settings.priors, now=now)


def _store(
    session: Session,
    node: NodeContext,
    study: Study,
    analysed: Finished,
    seen: PairStatistics | None,
    superseded: dict[str, int],
    *,
    now: dt.datetime,
) -> Result:
    """One result with its documents, their deliveries, the pair's statistics and the challenger's job."""
    result = result_row(study.id, analysed.request, superseded, now=now)
    session.add(result)
    session.flush()
    rows = [document_row(result, document, analysed) for document in analysed.documents]
    session.add_all(rows)
    session.flush()
    enqueued = 0
    if is_report_wanted(session, study):
        enqueued = enqueue_deliveries(
            session,
            rows,
            node.settings.destinations,
            now,
            delivery=node.settings.delivery,
            priority=priority_of(study.purpose),
        )
    if seen is not None and study.purpose is not StudyPurpose.BACKFILL:  # drift is about today's studies
        seen.result_pk = result.id
        session.add(seen)
    shadow.enqueue(session, node, result)
    log.info("result stored", outcome=analysed.request.outcome, documents=len(rows), deliveries=enqueued)
    return result


def _is_overtaken(session: Session, study: Study, generation: int) -> bool:
    """Tell whether an analysis that was asked for later is stored already: it knew more than this one."""
    newer = (Result.study_pk == study.id, Result.revision == study.revision, Result.generation > generation)
    return session.scalar(select(Result.id).where(*newer).limit(1)) is not None


def _supersede(session: Session, study_pk: int) -> Sequence[Result]:
    """Take the mark of being current from what the study had; returns these results."""
    current = session.scalars(select(Result).where(Result.study_pk == study_pk, Result.is_current)).all()
    for row in current:
        row.is_current = False
    session.flush()
    return current
