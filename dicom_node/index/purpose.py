"""Whether what arrives is to be analysed or only compared with: the marks that a fetch leaves on a study."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.index.tables import ExpectedRetrieval, Study, StudyState

ROUTED = "routed"
"""Sent to us for analysis."""
PRIOR = "prior"
"""Fetched as comparison material, never analysed by itself."""


def is_expected(session: Session, study_instance_uid: str, calling_ae_title: str, *, now: dt.datetime) -> bool:
    """Whether we are just fetching this study from this peer, which does not name the move originator."""
    wanted = select(ExpectedRetrieval.study_instance_uid).where(
        ExpectedRetrieval.study_instance_uid == study_instance_uid,
        ExpectedRetrieval.calling_ae_title.in_(["", calling_ae_title]),
        ExpectedRetrieval.until > now,
    )
    return session.scalar(wanted) is not None


def promote(session: Session, study_pk: int, *, now: dt.datetime) -> bool:
    """A study that was fetched as a prior is now sent to us: analyse it like any other, known as its images are.

    Returns whether it was a fetched prior. Without this a study whose every image is a duplicate would be lost.
    """
    changed = session.execute(
        update(Study)
        .where(Study.id == study_pk, Study.purpose == PRIOR)
        .values(
            purpose=ROUTED,
            state=StudyState.OPEN,
            opened_at=now,
            last_instance_at=now,
            completed_at=None,
            completed_by="",
        )
        .returning(Study.id)
        .execution_options(synchronize_session=False)
    )
    return changed.first() is not None
