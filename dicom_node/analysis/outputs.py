"""A result as files in one folder: the DICOM documents, and the same as text, page, picture and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from dicom_node.report.documents import build_documents
from dicom_node.report.render.html import as_html
from dicom_node.report.render.pair_picture import pair_picture
from dicom_node.report.render.text import as_text
from dicom_node.report.request import BuiltDocument, ReportRequest
from dicom_node.report.result import result_json
from dicom_node.storage.instance_store import fsync_folder


def write_outputs(folder: Path, request: ReportRequest, documents: Sequence[BuiltDocument] | None = None) -> str:
    """Write the documents (`machine.dcm`, `reading.dcm`, …), `report.html`, `report.txt`, `pair.png`, `result.json`.

    Returns the report's text. Every file is on the disk when this returns. Running it twice with one request writes
    the same files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents if documents is not None else build_documents(request):
        _durably(folder / f"{document.kind}.dcm", document_bytes(document))
    text = as_text(request)
    _durably(folder / "report.txt", text.encode())
    _durably(folder / "report.html", as_html(request).encode())
    if request.current.image is not None:
        _durably(folder / "pair.png", _png(request))
    _durably(folder / "result.json", json.dumps(result_json(request), ensure_ascii=False, indent=2).encode())
    fsync_folder(folder)
    fsync_folder(folder.parent)
    return text


def document_bytes(document: BuiltDocument) -> bytes:
    """The document as a Part 10 file."""
    buffer = BytesIO()
    document.dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _png(request: ReportRequest) -> bytes:
    buffer = BytesIO()
    pair_picture(request).save(buffer, "PNG")
    return buffer.getvalue()


def _durably(path: Path, content: bytes) -> None:
    """temp → write → fsync → rename; the caller syncs the folder."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
