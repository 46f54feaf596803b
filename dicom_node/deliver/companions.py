"""The documents of one result travel together: one association, one request for commitment, half of the commits."""

from __future__ import annotations

from sqlalchemy import Integer, bindparam, select
from sqlalchemy.orm import Session, aliased

from dicom_node.deliver.queue import job_key
from dicom_node.index.prepared import PreparedStatement
from dicom_node.index.tables.core import Delivery, DeliveryState, Document
from dicom_node.jobs.queue import ClaimedJob, claim_companions


def _other_new_deliveries() -> PreparedStatement:
    """Select what goes to the same destination, of the same result as a delivery that is new, and is new as well."""
    own, document = aliased(Delivery), aliased(Document)
    return PreparedStatement(
        select(Document.sop_instance_uid, Delivery.destination)
        .select_from(own)
        .join(document, own.document_pk == document.id)
        .join(Document, Document.result_pk == document.result_pk)
        .join(Delivery, (Delivery.document_pk == Document.id) & (Delivery.destination == own.destination))
        .where(own.id == bindparam("own", type_=Integer), Delivery.id != own.id)
        # One that was sent before, or failed, goes its own way: what befalls it must not hold up the others.
        .where(own.state == DeliveryState.PENDING, own.attempts == 0)
        .where(Delivery.state == DeliveryState.PENDING, Delivery.attempts == 0)
    )


_OTHERS = _other_new_deliveries()


def add_companions(session: Session, job: ClaimedJob) -> ClaimedJob:
    """Claim, with the first try of a delivery, those of the same result to the same destination that are new too."""
    if job.attempts > 1:
        return job
    others = _OTHERS.execute(session, {"own": int(job.payload["delivery_id"])})
    keys = [job_key(row.sop_instance_uid, row.destination) for row in others]
    return claim_companions(session, job, keys) if keys else job
