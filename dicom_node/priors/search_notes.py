"""Sentences about the search for earlier images, for the report and for `dicom-node priors`."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.index.tables.core import PriorSearch, Study


def search_notes(session: Session, study: Study) -> tuple[str, ...]:
    """Sentences for the report about searches that failed; a search that went well needs no words."""
    rows = session.scalars(
        select(PriorSearch)
        .where(PriorSearch.study_pk == study.id, PriorSearch.outcome == "failed")
        .order_by(PriorSearch.peer)
    )
    return tuple(f"The search for earlier images failed: {row.detail}" for row in rows)
