"""Studies that a backfill brought: what is different about them once they are in the index."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.index.tables.backfill import BackfillItem, BackfillRun
from dicom_node.index.tables.core import Study, StudyPurpose
from dicom_node.jobs.due import Priority


def is_report_wanted(session: Session, study: Study) -> bool:
    """Tell whether documents of this study are sent: of a backfilled one only where a run that has it says so."""
    if study.purpose is not StudyPurpose.BACKFILL:
        return True
    sending = select(BackfillItem.id).join(BackfillRun, BackfillItem.run_pk == BackfillRun.id)
    has_it = BackfillItem.study_instance_uid == study.study_instance_uid
    return session.scalar(sending.where(has_it, BackfillRun.sends_reports).limit(1)) is not None


def priority_of(purpose: StudyPurpose) -> Priority:
    """The priority of work on a study: what a backfill brought never goes before what was sent tonight."""
    return Priority.BULK if purpose is StudyPurpose.BACKFILL else Priority.ROUTINE
