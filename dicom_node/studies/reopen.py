"""Doubt about what is held: objects that are set apart, results that must be made anew, files that came again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.index.row_locks import lock_rows
from dicom_node.index.tables.core import (
    CompletedBy,
    Instance,
    Quarantine,
    QuarantineReason,
    Result,
    Study,
    StudyPurpose,
    StudyState,
)
from dicom_node.logs import get_logger
from dicom_node.storage.instance_store import InstanceStore, StoredFile

log = get_logger(__name__)
_T = TypeVar("_T")


class Run(Protocol):
    """Does a piece of work in a transaction of the index and returns its result once that is committed."""

    def __call__(self, work: Callable[[Session], _T], /) -> _T: ...


def quarantine_instance(
    session: Session,
    *,
    reason: QuarantineReason,
    detail: str,
    stored: StoredFile,
    sop_class_uid: str,
    sop_instance_uid: str,
    calling_ae_title: str,
    address: str,
    now: dt.datetime,
    disputes: str = "",
) -> bool:
    """Note an object that is kept apart. False where the same bytes were noted before: the file is not needed then.

    disputes: see `Registration`; the first time, every result that rests on that study is made anew.
    """
    if _count_again(session, reason, sop_instance_uid[:255], stored.sha256, now):
        return False
    session.add(
        Quarantine(
            reason=reason,
            detail=detail,
            sop_instance_uid=sop_instance_uid[:255],
            sop_class_uid=sop_class_uid[:255],
            path=stored.path,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            calling_ae_title=calling_ae_title,
            address=address,
            received_at=now,
        )
    )
    if disputes:
        session.flush()
        reopen_resting_on(session, disputes, now=now)
    return True


def _count_again(session: Session, reason: QuarantineReason, uid: str, sha256: str, now: dt.datetime) -> bool:
    """Count an object that is in quarantine with the same bytes; False where it is not."""
    known = session.execute(
        update(Quarantine)
        .where(Quarantine.sop_instance_uid == uid, Quarantine.sha256 == sha256, Quarantine.reason == reason)
        .values(times=Quarantine.times + 1, received_at=now)
        .returning(Quarantine.id)
        .execution_options(synchronize_session=False)
    )
    return known.first() is not None


def reopen_resting_on(session: Session, study_instance_uid: str, *, now: dt.datetime) -> None:
    """Something of this study may not be used any more: it, and every study compared with it, is analysed anew."""
    resting = select(Result.study_pk).where(Result.is_current, Result.prior_study_instance_uid == study_instance_uid)
    analysed = Study.purpose.in_((StudyPurpose.ROUTED, StudyPurpose.BACKFILL))
    closed = analysed & (Study.state != StudyState.OPEN)
    concerned = (Study.study_instance_uid == study_instance_uid) | Study.id.in_(resting)
    session.execute(
        update(Study)
        .where(lock_rows(session, Study, closed & concerned))
        .values(
            revision=Study.revision + 1,
            state=StudyState.OPEN,
            opened_at=now,
            last_instance_at=now,
            completed_at=None,
            completed_by=CompletedBy.NOTHING,
        )
        .execution_options(synchronize_session=False)
    )


def replace_lost(
    store: InstanceStore, run: Run, *, lost: str, stored: StoredFile, sop_instance_uid: str, transfer_syntax_uid: str
) -> bool:
    """Replace a missing stored file by this duplicate; False if the file is still there."""
    if store.has(lost):
        return False
    is_adopted = run(
        lambda session: _adopt(
            session,
            sop_instance_uid=sop_instance_uid,
            lost=lost,
            stored=stored,
            transfer_syntax_uid=transfer_syntax_uid,
        )
    )
    log.warning("a file that was lost came again", adopted=is_adopted)
    return is_adopted


def _adopt(session: Session, *, sop_instance_uid: str, lost: str, stored: StoredFile, transfer_syntax_uid: str) -> bool:
    """Have the row name another file of the same object, because its own is gone. False where somebody was faster.

    A commit of which the index never told whether it held leaves such a row: its file was taken back.
    """
    row = session.execute(
        update(Instance)
        .where(Instance.sop_instance_uid == sop_instance_uid, Instance.path == lost)
        .values(
            path=stored.path,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            transfer_syntax_uid=transfer_syntax_uid,
        )
        .returning(Instance.id)
        .execution_options(synchronize_session=False)
    )
    return row.first() is not None
