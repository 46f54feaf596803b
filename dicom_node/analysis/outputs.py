"""A result as files in one folder: the DICOM documents and the values that every page and picture is made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dicom_node.dicom.write import part10_bytes
from dicom_node.report.documents import build_documents
from dicom_node.report.render.shown import shown_report
from dicom_node.report.render.text import as_text
from dicom_node.report.request import BuiltDocument, DocumentKind, ReportRequest
from dicom_node.report.result import result_json
from dicom_node.storage.documents import DocumentStore, FolderDocuments

SHOWN_FILE = "report.json"
"""The words and outlines of the result as they were when it was made (`dicom_node.report.render.shown`)."""


def write_result(
    store: DocumentStore, folder: str, request: ReportRequest, documents: Sequence[BuiltDocument]
) -> Mapping[DocumentKind, str]:
    """Write what the node keeps of a result: `machine.dcm`, `reading.dcm`, … and `report.json`.

    Returns the SHA-256 of each document. Every file is on the disk when this returns. Running it twice with one request
    writes the same files. Pages and pictures are made from these when somebody asks (`dicom_node.analysis.rendering`).
    """
    files = {document.kind: part10_bytes(document.dataset) for document in documents}
    written = {f"{kind}.dcm": content for kind, content in files.items()}
    store.write(folder, {**written, SHOWN_FILE: shown_report(request).to_json()})
    return {kind: hashlib.sha256(content).hexdigest() for kind, content in files.items()}


def write_outputs(folder: Path, request: ReportRequest) -> str:
    """Write everything for a person: the documents, `report.html`, `report.txt`, `pair.jpg`, `result.json`.

    Returns the report's text.
    """
    from dicom_node.report.render.html import page_of_shown  # a node's analysis draws nothing and needs no pillow
    from dicom_node.report.render.pair_picture import pair_jpeg

    write_result(FolderDocuments(folder.parent), folder.name, request, build_documents(request))
    shown, text = shown_report(request), as_text(request)
    prior = request.prior.image if request.prior is not None else None
    jpeg = pair_jpeg(shown, prior=prior, current=request.current.image)
    (folder / "report.txt").write_text(text, "utf-8")
    (folder / "report.html").write_text(page_of_shown(shown, jpeg), "utf-8")
    if request.current.image is not None:
        (folder / "pair.jpg").write_bytes(jpeg)
    (folder / "result.json").write_text(json.dumps(result_json(request), ensure_ascii=False, indent=2), "utf-8")
    return text
