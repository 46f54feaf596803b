"""The documents that a new result replaces: those on its image, and on images that the study no longer reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from dicom_node.context import NodeContext
from dicom_node.index.tables.core import Document, Result, Study
from dicom_node.report.request import DocumentKind, PredecessorDocument, ReportRequest


def predecessors_of(session: Session, study: Study, sop_instance_uid: str) -> tuple[PredecessorDocument, ...]:
    """The documents of the current result on one image."""
    return _documents(session, study, Result.sop_instance_uid == sop_instance_uid)


def replacing_all(requests: Sequence[ReportRequest], node: NodeContext, study: Study) -> list[ReportRequest]:
    """Let the first new result also replace the results of images that the study no longer reports.

    Else a report such as "no frontal image yet" would stand beside the one that came after it, as current as that.
    """
    spoken = {str(request.current.header.get("SOPInstanceUID", "") or "") for request in requests}
    with node.database.read() as session:
        left = _documents(session, study, Result.sop_instance_uid.not_in(spoken))
    first, *others = requests
    return [replace(first, predecessors=(*first.predecessors, *left)), *others]


def _documents(session: Session, study: Study, which: ColumnElement[bool]) -> tuple[PredecessorDocument, ...]:
    rows = session.scalars(
        select(Document)
        .join(Result, Result.id == Document.result_pk)
        .where(Result.study_pk == study.id, Result.is_current, which)
        .order_by(Document.id)
    )
    return tuple(
        PredecessorDocument(
            kind=DocumentKind(row.kind),
            study_instance_uid=study.study_instance_uid,
            series_instance_uid=row.series_instance_uid,
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
        )
        for row in rows
    )
