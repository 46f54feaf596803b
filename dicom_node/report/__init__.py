"""From a prediction to documents: codes → content → documents, and the same result as text, page and picture."""

from __future__ import annotations

from dicom_node.report.documents import STANDARD_KINDS, build_documents
from dicom_node.report.render.html import as_html
from dicom_node.report.render.pair_picture import pair_picture
from dicom_node.report.render.text import as_text
from dicom_node.report.request import (
    BuiltDocument,
    DocumentKind,
    PredecessorDocument,
    ReportRequest,
    SourceImage,
)
from dicom_node.report.result import result_json

__all__ = [
    "STANDARD_KINDS",
    "BuiltDocument",
    "DocumentKind",
    "PredecessorDocument",
    "ReportRequest",
    "SourceImage",
    "as_html",
    "as_text",
    "build_documents",
    "pair_picture",
    "result_json",
]
