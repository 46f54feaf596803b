"""What we fetch as comparison material, and so never analyse by itself, though its sender does not say what it is."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import ExpectedRetrieval


def is_expected(session: Session, study_instance_uid: str, calling_ae_title: str, *, now: dt.datetime) -> bool:
    """Whether we are just fetching this study from this peer, which does not name the move originator."""
    wanted = select(ExpectedRetrieval.study_instance_uid).where(
        ExpectedRetrieval.study_instance_uid == study_instance_uid,
        ExpectedRetrieval.calling_ae_title.in_(["", calling_ae_title]),
        ExpectedRetrieval.until > now,
    )
    return session.scalar(wanted) is not None
