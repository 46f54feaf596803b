"""The worker processes and the model that each answers with, as they say in the index."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.index.tables.models import ModelServing
from dicom_node.system.process_identity import ProcessIdentity, machine, shown_name

ALIVE_SECONDS = 60.0
"""A worker whose row is older is not counted: it renews it four times as often."""


def forget_dead_workers(session: Session, *, own: str) -> None:
    """Delete the rows of worker processes of this machine that are gone, and the one of this name."""
    here = ModelServing.worker.startswith(f"{machine()}/", autoescape=True)
    names = list(session.scalars(select(ModelServing.worker).where(here)))
    gone = [name for name in names if _is_gone(name)]
    session.execute(delete(ModelServing).where(ModelServing.worker.in_([*gone, own])))


def _is_gone(worker: str) -> bool:
    process = ProcessIdentity.parse(worker)
    return process is not None and process.is_gone()


def serving_lines(session: Session, now: dt.datetime) -> list[dict[str, Any]]:
    """The model of each living worker. A worker that has had no study yet has loaded nothing and says nothing."""
    fresh = now - dt.timedelta(seconds=ALIVE_SECONDS)
    rows = session.scalars(select(ModelServing).where(ModelServing.seen_at >= fresh).order_by(ModelServing.worker))
    return [
        {
            "worker": shown_name(row.worker),
            "folder": row.folder,
            "wanted": row.wanted,
            "name": row.model_name,
            "version": row.model_version,
            "device_uid": row.device_uid,
            "since": row.since,
            "error": row.error,
        }
        for row in rows
    ]
