"""Page and picture of a stored result, made when somebody asks and kept beside its documents.

A kept picture is named by what it was made from, so a changed report or drawing never shows an old one; it goes with
the folder when retention removes the study.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from dicom_node.analysis.outputs import SHOWN_FILE
from dicom_node.context import NodeContext
from dicom_node.errors import StorageError
from dicom_node.index.tables.core import Document, Instance, Result
from dicom_node.logs import get_logger
from dicom_node.report.render.html import page_of_shown
from dicom_node.report.render.pair_picture import RENDERING, pair_jpeg
from dicom_node.report.render.shown import ShownImage, ShownReport, shown_from_json
from dicom_node.report.render.text import text_of_shown
from model.errors import PixelError
from model.images.sandbox import decode_in_child
from model.schema import DisplayImage

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """A result's report as it was when the result was made. folder: its documents' name; digest: of its values."""

    folder: str
    shown: ShownReport
    digest: str
    produced_at: dt.datetime


def load_report(node: NodeContext, result_id: int) -> StoredReport | None:
    """Read a result's report; None where nothing was kept: removed by retention, or made before reports were kept.

    Raises StorageError where the file is there and cannot be read.
    """
    with node.database.read() as session:
        row = session.execute(
            select(Document.path, Result.created_at)
            .join(Result, Document.result_pk == Result.id)
            .where(Result.id == result_id)
            .order_by(Document.id)
        ).first()
    if row is None:
        return None
    path, produced_at = row
    folder = Path(path).parent.as_posix()
    try:
        content = node.documents.read(f"{folder}/{SHOWN_FILE}")
    except FileNotFoundError:
        return None
    try:
        shown = shown_from_json(content)
    except ValueError as error:
        raise StorageError(f"{folder}/{SHOWN_FILE}: this is no kept report ({error})") from error
    digest = hashlib.sha256(content + RENDERING.encode()).hexdigest()[:16]
    return StoredReport(folder=folder, shown=shown, digest=digest, produced_at=produced_at)


def picture_of(node: NodeContext, stored: StoredReport) -> bytes:
    """The pair picture as JPEG. An image that is no longer stored, or no longer the same, is a field that says so."""
    kept = f"{stored.folder}/pair-{stored.digest}.jpg"
    try:
        return node.documents.read(kept)
    except FileNotFoundError:
        pass
    prior, current = _image(node, stored.shown.prior), _image(node, stored.shown.current)
    jpeg = pair_jpeg(stored.shown, prior=prior, current=current)
    shown_images = (stored.shown.prior, stored.shown.current)
    # Kept only when it is whole: an image that cannot be read now may be readable again.
    if all(image is not None or not shown.sha256 for image, shown in zip((prior, current), shown_images, strict=True)):
        _keep(node, kept, jpeg)
    return jpeg


def page_of(node: NodeContext, stored: StoredReport) -> str:
    """The report as one HTML page, the same as `dicom-node analyze` writes."""
    return page_of_shown(stored.shown, picture_of(node, stored))


def pdf_of(node: NodeContext, stored: StoredReport) -> bytes:
    """The report as PDF pages, made anew each time: it is asked for seldom, and fonts differ between machines."""
    from dicom_node.report.render.pdf import pdf_of_shown  # fpdf2 and its fonts

    prior, current = _image(node, stored.shown.prior), _image(node, stored.shown.current)
    return pdf_of_shown(stored.shown, prior=prior, current=current, produced_at=stored.produced_at)


def text_of(stored: StoredReport) -> str:
    """The report as a terminal shows it."""
    return text_of_shown(stored.shown)


def _image(node: NodeContext, shown: ShownImage) -> DisplayImage | None:
    """The display image that the report speaks of, made again from the stored object."""
    if not shown.sha256:
        return None
    with node.database.read() as session:
        path = session.scalar(select(Instance.path).where(Instance.sop_instance_uid == shown.sop_instance_uid))
    if path is None:
        return None
    try:
        image = decode_in_child(node.store.path(path))
    except (PixelError, StorageError) as error:
        log.warning("an image of a report cannot be shown", error=str(error))
        return None
    # Decoded otherwise by a newer version, the outlines would lie beside what they mark.
    return image if image.sha256 == shown.sha256 and image.geometry == shown.geometry else None


def _keep(node: NodeContext, name: str, content: bytes) -> None:
    """Put the file there whole or not at all. It may be lost with the machine: it can be made again."""
    try:
        node.documents.keep(name, content)
    except (OSError, StorageError) as error:  # retention may remove the folder, and a full disk must not hide a picture
        log.warning("picture not kept", error=str(error))
