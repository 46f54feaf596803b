"""The contents of the page of jobs, read from the index; nothing here writes."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.admin.formats import label
from dicom_node.admin.listings import delivery_rows
from dicom_node.index.tables.core import Delivery, Job, JobState


def job_lines(session: Session, state: JobState | None, *, offset: int = 0, limit: int = 200) -> list[Job]:
    """The jobs, dead ones first, then by when they are due."""
    chosen = Job.state == state if state is not None else Job.state != JobState.DONE
    rows = list(
        session.scalars(
            select(Job)
            .where(chosen)
            .order_by((Job.state == JobState.DEAD).desc(), Job.run_at, Job.id)
            .offset(offset)
            .limit(limit)
        )
    )
    session.expunge_all()
    return rows


def what_jobs_are_about(session: Session, lines: Sequence[Job]) -> dict[int, tuple[str, str]]:
    """Job → (in words, StudyInstanceUID or ""), as far as it is known."""
    delivery_ids = [int(job.payload["delivery_id"]) for job in lines if "delivery_id" in job.payload]
    rows = delivery_rows(session, Delivery.id.in_(delivery_ids)) if delivery_ids else []
    row_of = {row[0].id: row for row in rows}
    abouts = {}
    for job in lines:
        if (row := row_of.get(int(job.payload.get("delivery_id", 0)))) is not None:
            abouts[job.id] = (f"{label(row[1].kind)} → {row[0].destination}", row[2])
        elif uid := str(job.payload.get("study_instance_uid", "")):
            abouts[job.id] = ("study", uid)
    return abouts
