"""Pixels for the study page: the display image as 16-bit values for window and level, and as PNG without a script.

Each is audited by itself: an image can be asked for without the page (PS3.15 section A.5.3.6).
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.responses import Response

from dicom_node.audit import messages as audit
from dicom_node.config import Role
from dicom_node.dicom.uids import is_uid
from dicom_node.index.tables.core import Instance, Series, Study
from dicom_node.web.pages.worklist import audit_access
from dicom_node.web.routing import Call, Rule
from model.errors import PixelError
from model.images.sandbox import decode_in_child

LONGEST_SIDE = 1400
"""Pixels on the screen: enough for a status page; the PACS viewer is for diagnosis."""
THUMBNAIL = 240
KEPT = 24
"""Decoded images in memory, at most LONGEST_SIDE² × 2 bytes each (4 MB)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScreenImage:
    """One image as the page gets it. values: little-endian uint16, row by row. geometry: see model.schema."""

    rows: int
    columns: int
    values: bytes
    geometry: dict[str, int]


class _Cache:
    """The last images that were looked at; decoding one takes most of a second."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Path, ScreenImage] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: Path) -> ScreenImage:
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        shown = _decode(path)
        with self._lock:
            self._kept[path] = shown
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return shown


_cache = _Cache()


def _decode(path: Path) -> ScreenImage:
    """Decode in the limited child process. Raises PixelError."""
    image = decode_in_child(path)
    pixels = image.pixels
    scale = min(1.0, LONGEST_SIDE / max(pixels.shape))
    if scale < 1.0:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    values = np.round(np.clip(pixels, 0.0, 1.0) * 65535).astype("<u2")
    geometry = image.geometry
    return ScreenImage(
        rows=values.shape[0],
        columns=values.shape[1],
        values=values.tobytes(),
        geometry={
            "rows": geometry.rows,
            "columns": geometry.columns,
            "top": geometry.top,
            "left": geometry.left,
            "height": geometry.height,
            "width": geometry.width,
        },
    )


def _screen_image(call: Call) -> ScreenImage:
    uid = str(call.request.path_params["sop_instance_uid"])
    if not is_uid(uid):
        raise HTTPException(404, "no such image")
    with call.node.database.read() as session:
        row = session.execute(
            select(Instance.path, Study)
            .join(Series, Instance.series_pk == Series.id)
            .join(Study, Series.study_pk == Study.id)
            .where(Instance.sop_instance_uid == uid)
        ).one_or_none()
        session.expunge_all()  # the values outlive the session
    if row is None:
        raise HTTPException(404, "no such image; it may have been removed by retention")
    audit_access(call, row.Study, audit.AuditedEvent.INSTANCES_ACCESSED)
    try:
        return _cache.get(call.node.store.path(row.path))
    except PixelError as error:
        raise HTTPException(422, f"the image cannot be shown: {error}") from error


def pixels(call: Call) -> Response:
    """uint16 values; size and geometry in headers."""
    shown = _screen_image(call)
    headers = {
        "X-Rows": str(shown.rows),
        "X-Columns": str(shown.columns),
        "X-Geometry": json.dumps(shown.geometry),
    }
    return Response(shown.values, media_type="application/octet-stream", headers=headers)


def picture(call: Call) -> Response:
    """PNG, 8 bit."""
    shown = _screen_image(call)
    values = np.frombuffer(shown.values, dtype="<u2").reshape(shown.rows, shown.columns)
    buffer = BytesIO()
    Image.fromarray((values >> 8).astype(np.uint8)).save(buffer, "PNG")
    return Response(buffer.getvalue(), media_type="image/png")


def thumbnail(call: Call) -> Response:
    """JPEG of at most THUMBNAIL pixels a side."""
    shown = _screen_image(call)
    values = np.frombuffer(shown.values, dtype="<u2").reshape(shown.rows, shown.columns)
    image = Image.fromarray((values >> 8).astype(np.uint8))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return Response(buffer.getvalue(), media_type="image/jpeg")


RULES = (
    Rule(path="/images/{sop_instance_uid}/thumbnail.jpg", view=thumbnail, role=Role.VIEWER),
    Rule(path="/images/{sop_instance_uid}/pixels", view=pixels, role=Role.VIEWER),
    Rule(path="/images/{sop_instance_uid}/picture.png", view=picture, role=Role.VIEWER),
)
