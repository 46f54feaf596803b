"""One delivery at hand: what its run needs, read from the rows; or that there is nothing to do any more."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from dicom_node.audit.messages import AboutStudy
from dicom_node.config import Destination
from dicom_node.context import NodeContext
from dicom_node.deliver import peer, transitions
from dicom_node.deliver.queue import has_predecessor_on_its_way, sent_uid
from dicom_node.errors import DeliveryError, StorageError
from dicom_node.index.tables.core import Delivery, DeliveryState, Document, Result, Study
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob

WAIT_FOR_PREDECESSOR = dt.timedelta(seconds=2)
"""The time for which a new document waits while an older one of its study is being sent to the same destination."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One claimed delivery with what its run needs."""

    job: ClaimedJob
    node: NodeContext
    destination: Destination
    delivery_id: int
    state: DeliveryState
    sends: int
    proof_attempts: int
    stored_at: dt.datetime | None
    asked_at: dt.datetime | None
    study: AboutStudy
    reference: peer.InstanceReference
    """The document as this destination has or will get it: in the class that it accepted before, else its own."""
    document_uid: str
    document_class: str
    path: str

    def is_proof_late(self) -> bool:
        """Tell whether the time for the proof has run out."""
        since = self.asked_at or self.stored_at
        timeout = dt.timedelta(seconds=self.node.settings.delivery.proof_timeout_seconds)
        return since is None or self.node.clock() >= since + timeout


def begin(job: ClaimedJob, node: NodeContext) -> tuple[Task, ...]:
    """The job's task and those of its companions; none where there is nothing to do any more and the jobs have been
    ended or given back."""
    with node.database.write() as session:
        task = _task_of(session, job, node)
        beside = [other for each in job.companions if (other := _task_of(session, each, node)) is not None]
        if task is not None and task.state is DeliveryState.PENDING:
            return (task, *beside)
        for other in beside:
            jobs.postpone(session, other.job)
    return () if task is None else (task,)


def _task_of(session: Session, job: ClaimedJob, node: NodeContext) -> Task | None:
    """The task, or None where there is nothing to do any more and the job has been ended or put off."""
    now = node.clock()
    row = session.execute(
        select(Delivery, Document, Result, Study)
        .join(Document, Delivery.document_pk == Document.id)
        .join(Result, Document.result_pk == Result.id)
        .join(Study, Result.study_pk == Study.id)
        .where(Delivery.id == job.payload["delivery_id"])
    ).one_or_none()
    if row is None or row.Delivery.state is DeliveryState.CONFIRMED:
        jobs.complete(session, job)
        return None
    delivery: Delivery = row.Delivery
    # What the destination has accepted already is followed to its proof all the same.
    if not row.Result.is_current and delivery.state is not DeliveryState.STORED:
        give_up_as_superseded(session, job, delivery, now)
        return None
    # Else an older report could arrive behind the one that replaces it, and be read as the newest.
    if has_predecessor_on_its_way(session, row.Result, delivery.destination):
        jobs.postpone(session, job, until=now + WAIT_FOR_PREDECESSOR)
        return None
    destination = next((d for d in node.settings.destinations if d.name == delivery.destination), None)
    if destination is None:
        error = f"no destination {delivery.destination!r} is configured any more"
        jobs.fail(session, job, error, permanent=True)
        transitions.give_up(delivery, error, now)
        return None
    return _task_from_row(row, job, node, destination)


def _task_from_row(
    row: Row[Delivery, Document, Result, Study], job: ClaimedJob, node: NodeContext, destination: Destination
) -> Task:
    """row: the delivery, its document and its study."""
    delivery, document, study = row.Delivery, row.Document, row.Study
    return Task(
        job=job,
        node=node,
        destination=destination,
        delivery_id=delivery.id,
        state=delivery.state,
        sends=delivery.attempts,
        proof_attempts=delivery.proof_attempts,
        stored_at=delivery.stored_at,
        asked_at=delivery.commitment_asked_at,
        study=AboutStudy(
            study_instance_uid=study.study_instance_uid,
            patient_id=study.patient_id,
            patient_name=study.patient_name,
            accession_number=study.accession_number,
        ),
        reference=peer.InstanceReference(
            study_instance_uid=study.study_instance_uid,
            series_instance_uid=document.series_instance_uid,
            sop_class_uid=delivery.accepted_sop_class_uid or document.sop_class_uid,
            sop_instance_uid=sent_uid(delivery, document),
        ),
        document_uid=document.sop_instance_uid,
        document_class=document.sop_class_uid,
        path=document.path,
    )


def give_up_as_superseded(session: Session, job: ClaimedJob, delivery: Delivery, now: dt.datetime) -> None:
    """Transition E: an outdated document that the destination has not is no longer sent."""
    transitions.supersede(delivery, now)
    jobs.complete(session, job)


def read_document(task: Task) -> Dataset:
    """The document from the disk. Raises DeliveryError, permanent where the file is gone or damaged."""
    try:
        return dcmread(BytesIO(task.node.documents.read(task.path)))
    except (FileNotFoundError, InvalidDicomError) as error:
        raise DeliveryError(f"the document's file cannot be read: {error}", permanent=True) from error
    except (OSError, StorageError) as error:
        raise DeliveryError(f"the document's file cannot be read: {error}") from error
