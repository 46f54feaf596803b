"""Studies being fetched as comparison material, and their sources: images of them are not analysed."""

from __future__ import annotations

import datetime as dt

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import ExpectedRetrieval


def source_of_retrieval(session: Session, study_instance_uid: str, *, now: dt.datetime) -> str | None:
    """The AE title of the peer that this study is being fetched from by C-MOVE; None for a study that nobody asked for.

    That an object names this node as Move Originator (PS3.7 section 9.1.1.1.5) proves nothing: anybody may write it.
    """
    newest = select(ExpectedRetrieval.calling_ae_title).where(
        ExpectedRetrieval.study_instance_uid == study_instance_uid, ExpectedRetrieval.until > now
    )
    return session.scalar(newest)
