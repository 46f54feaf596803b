"""DICOM → display image: the one place where stored values become what a person would see, for training and serving.

The steps, each in a module of this package: read and check (`read`), grey values (`grayscale`), border (`crop`), the
model's square (`square`). Untrusted files are opened through `model.images.sandbox`, in a child.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from model.errors import PixelError
from model.images.crop import film_box
from model.images.exposure import exposure_of
from model.images.grayscale import grey_of
from model.images.read import MAX_FRAME_PIXELS, MIN_SIDE, damage_is_pixel_error, read_dataset, read_sniff, stored_frame
from model.images.square import SquareFit, fit, fit_grey, square_fit, square_pixels, square_to_stored, stored_to_square
from model.schema import DisplayImage, SourceGeometry

__all__ = [
    "SquareFit",
    "display_image",
    "fit",
    "fit_grey",
    "from_grey",
    "full_grey",
    "load_display_image",
    "load_picture",
    "square_fit",
    "square_to_stored",
    "stored_to_square",
]

MAX_ASPECT = 5.0
"""A ratio beyond it is a wrong declaration."""
ASPECT_TOLERANCE = 0.01
_VIEW_CODES = {"399348003": "AP", "272479007": "PA", "R-10206": "AP", "R-10214": "PA"}
"""View Code Sequence, CID 4010 (SCT) and its older SRT values."""


def display_image(ds: Dataset, *, crop: bool = True) -> DisplayImage:
    """The display image of an image object; raises PixelError in words fit for a report.

    crop: cut black and white borders off (the geometry says which).
    """
    with damage_is_pixel_error():
        stored, frame = stored_frame(ds)
        if min(stored.shape) < MIN_SIDE:
            raise PixelError(f"the image has only {stored.shape[0]} × {stored.shape[1]} pixels")
        return from_grey(
            grey_of(ds, stored, frame),
            crop=crop,
            pixel_aspect=pixel_aspect_of(ds),
            sha256=_hash(stored),
            view=view_of(ds),
            sop_instance_uid=str(ds.get("SOPInstanceUID", "") or ""),
            study_instance_uid=str(ds.get("StudyInstanceUID", "") or ""),
            acquired=acquisition_moment(ds),
        )


def load_display_image(path: Path, *, crop: bool = True) -> DisplayImage:
    """The display image of a file: DICOM (also without preamble and meta header), PNG, JPEG or WebP.

    Decodes in this process: for files from a peer use `model.images.sandbox.decode_in_child`. Raises PixelError.
    """
    try:
        with path.open("rb") as stream:
            kind = read_sniff(stream)
    except OSError as error:
        raise PixelError(f"the file cannot be read: {error.strerror}") from error
    return display_image(read_dataset(path), crop=crop) if kind == "dicom" else load_picture(path, crop=crop)


def full_grey(ds: Dataset) -> NDArray[np.float32]:
    """Display grey float32 [Rows, Columns] in 0..1 of the whole stored frame, nothing cropped. Raises PixelError."""
    with damage_is_pixel_error():
        stored, frame = stored_frame(ds)
        return grey_of(ds, stored, frame)


def load_picture(path: Path, *, crop: bool = True) -> DisplayImage:
    """The display image of a PNG, JPEG or WebP of a public data set (8 or 16 bit grey, or colour that is grey)."""
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAX_FRAME_PIXELS:
                raise PixelError(f"the picture is too large: {picture.height} × {picture.width} pixels")
            # Pillow's conversion of 16-bit grey to "L" cuts off at 255 instead of scaling.
            deep = picture.mode.startswith("I") or picture.mode == "F"
            values = np.asarray(picture if deep else picture.convert("L"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise PixelError(f"the picture cannot be read: {error}") from error
    if min(values.shape) < MIN_SIDE:
        raise PixelError(f"the image has only {values.shape[0]} × {values.shape[1]} pixels")
    scale = 65535.0 if deep else 255.0
    return from_grey(values.astype(np.float32) / np.float32(scale), crop=crop, sha256=_hash(values.astype(np.int32)))


def pixel_aspect_of(ds: Dataset) -> float:
    """Height of a pixel divided by its width (PS3.3 section C.7.6.3.1.7); 1.0 where nothing usable is said.

    A spacing (row, then column) goes before Pixel Aspect Ratio, which is for images without one.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        values = ds.get(keyword)
        if not isinstance(values, MultiValue) or len(values) != 2:
            continue
        try:
            height, width = (float(value) for value in values)
        except (TypeError, ValueError):
            continue
        # Out of any reason: a writer's mistake (a unit, a swapped element), and no aspect is better than a stretched
        # chest.
        if height > 0 and width > 0 and 1 / MAX_ASPECT <= height / width <= MAX_ASPECT:
            aspect = height / width
            return aspect if abs(aspect - 1.0) > ASPECT_TOLERANCE else 1.0
    return 1.0


def _with_square_pixels(pixels: NDArray[np.float32], aspect: float) -> NDArray[np.float32]:
    """The picture with its shorter pixel side stretched, so that a chest has the height that it had."""
    height, width = square_pixels(pixels.shape[0], pixels.shape[1], aspect)
    if (height, width) == pixels.shape or height * width > MAX_FRAME_PIXELS:
        return pixels
    stretched = Image.fromarray(pixels, mode="F").resize((width, height), Image.Resampling.BILINEAR)
    return np.clip(np.asarray(stretched, dtype=np.float32), 0.0, 1.0)


def from_grey(grey: NDArray[Any], *, crop: bool = True, pixel_aspect: float = 1.0, **identity: Any) -> DisplayImage:
    """A display image of grey values [H, W], air dark: floating point in 0..1, uint8 or uint16 over their whole range.

    identity: the other fields of `DisplayImage` (view, sop_instance_uid, …).
    """
    if grey.ndim != 2:
        raise ValueError(f"grey values are [H, W], got {grey.shape}")
    if grey.dtype.kind == "u":
        identity.setdefault("sha256", _hash(grey.astype(np.int32)))
        grey = grey.astype(np.float32) / np.float32(np.iinfo(grey.dtype).max)
    values = grey.astype(np.float32, copy=False)
    rows, columns = values.shape
    top, left, height, width = 0, 0, rows, columns
    if crop:
        box = film_box(values)
        top, left, height, width = box.top, box.left, box.height, box.width
    kept = np.ascontiguousarray(np.clip(values[top : top + height, left : left + width], 0.0, 1.0))
    return DisplayImage(
        pixels=_with_square_pixels(kept, pixel_aspect),
        geometry=SourceGeometry(
            rows=rows,
            columns=columns,
            top=top,
            left=left,
            height=height,
            width=width,
            pixel_aspect=pixel_aspect,
        ),
        **identity,
    )


def view_of(ds: Dataset) -> str | None:
    """ "PA" or "AP" where ViewPosition or the View Code Sequence says so, else None."""
    position = str(ds.get("ViewPosition", "") or "").strip().upper()
    if position:
        return position if position in ("PA", "AP") else None
    items = ds.get("ViewCodeSequence")
    return _VIEW_CODES.get(str(items[0].get("CodeValue", ""))) if items else None


def acquisition_moment(ds: Dataset) -> dt.datetime | None:
    """Local date and time of the exposure, naive, as `exposure_of` reads it; None without a date."""
    exposure = exposure_of(ds)
    return exposure.moment if exposure is not None else None


def _hash(stored: NDArray[np.int32]) -> str:
    """SHA-256 of shape and stored values, whatever their encoding and transfer syntax were."""
    digest = hashlib.sha256(f"{stored.shape[0]}x{stored.shape[1]}:".encode())
    # Little endian on every machine: the hash names the picture wherever it was decoded.
    digest.update(np.ascontiguousarray(stored, dtype="<i4").data)
    return digest.hexdigest()
