"""The rows of a result and of its documents."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dicom_node.index.tables.core import Document, Result
from dicom_node.report.request import BuiltDocument, DocumentKind, ReportRequest
from dicom_node.report.result import result_json


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """A request and its documents on the disk. folder: relative to the documents folder; digests: SHA-256 of each."""

    request: ReportRequest
    documents: tuple[BuiltDocument, ...]
    folder: Path
    digests: Mapping[DocumentKind, str]


def result_row(study_pk: int, request: ReportRequest, superseded: dict[str, int], *, now: dt.datetime) -> Result:
    """The row of a request's result. superseded: SOPInstanceUID → key of the result that it takes the place of."""
    image_uid = str(request.current.header.get("SOPInstanceUID", "") or "")
    prior = request.prior.header if request.prior is not None else None
    prediction = request.prediction
    return Result(
        study_pk=study_pk,
        revision=request.revision,
        generation=request.generation,
        sop_instance_uid=image_uid,
        outcome=request.outcome,
        reason=request.reason,
        prior_study_instance_uid=str(prior.get("StudyInstanceUID", "") or "") if prior is not None else "",
        prior_sop_instance_uid=str(prior.get("SOPInstanceUID", "") or "") if prior is not None else "",
        prior_reasons=list(request.prior_reasons),
        prediction=result_json(request),
        model_name=request.model.name,
        model_version=request.model.version,
        device_uid=request.model.device_uid,
        seconds=dict(prediction.seconds) if prediction is not None else {},
        is_current=True,
        supersedes_pk=superseded.get(image_uid),
        created_at=now,
    )


def document_row(result: Result, document: BuiltDocument, finished: Finished) -> Document:
    """The row of one document, whose result has its key by now."""
    return Document(
        result_pk=result.id,
        kind=document.kind,
        sop_instance_uid=document.sop_instance_uid,
        sop_class_uid=document.sop_class_uid,
        series_instance_uid=document.series_instance_uid,
        path=str(finished.folder / f"{document.kind}.dcm"),
        sha256=finished.digests[document.kind],
    )
