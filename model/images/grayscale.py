"""Stored values → display grey: modality and VOI transformations, inversion and padding, on the whole stored frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from model.errors import PixelError

LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
"""Display range of a picture that brings no usable window."""
FLAT_SHARE = 0.98
"""A window that sends more than this share of the picture to one end shows nothing and is set aside."""
MAX_PADDING_SHARE = 0.8
"""A declared padding value that would blank more than this is taken for a wrong declaration."""


class VoiFunction(StrEnum):
    """VOI LUT Function (0028,1056), PS3.3 section C.11.2.1.3."""

    LINEAR = "LINEAR"
    """Width counts the values: from centre - 0.5 - (width - 1) / 2 to centre - 0.5 + (width - 1) / 2."""
    LINEAR_EXACT = "LINEAR_EXACT"
    """From centre - width / 2 to centre + width / 2."""
    SIGMOID = "SIGMOID"
    """1 / (1 + exp(-4 (x - centre) / width))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupTable:
    """A LUT of PS3.3 section C.11.1.1: `data[i]` stands for the input `first + i`; inputs beyond are clamped."""

    first: int
    data: NDArray[np.float32]
    maximum: float

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float32]:
        index = np.clip(np.rint(values).astype(np.int64) - self.first, 0, len(self.data) - 1)
        out: NDArray[np.float32] = self.data[index]
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Centre and width in units of the modality transformation's output."""

    centre: float
    width: float
    function: VoiFunction

    def __call__(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """float32 in 0..1 of the same shape."""
        if self.function is VoiFunction.SIGMOID:
            # exp overflows single precision beyond 88.
            exponent = np.clip(-4.0 * (values - self.centre) / self.width, -80.0, 80.0)
            return _float32(1.0 / (1.0 + np.exp(exponent)))
        if self.function is VoiFunction.LINEAR_EXACT:
            middle, width = self.centre, self.width
        # The formula of LINEAR divides by width - 1: a width of one is a step (PS3.3 section C.11.2.1.2.1).
        elif self.width == 1:
            return _float32(values > self.centre - 0.5)
        else:
            middle, width = self.centre - 0.5, self.width - 1.0
        scaled = values - middle
        scaled /= width  # in place: a film has millions of values, and each copy of it has its price
        scaled += 0.5
        return _float32(np.clip(scaled, 0.0, 1.0, out=scaled))


def grey_of(dataset: Dataset, stored: NDArray[np.int32], frame: int = 0) -> NDArray[np.float32]:
    """Display grey float32 [rows, columns] in 0..1, air dark and bone bright, of stored values of the same shape.

    Raises PixelError where rescale or window are beyond all numbers.
    """
    modality = _modality(dataset, stored, frame)
    padding = padding_mask(dataset, stored)
    grey = _voi(dataset, modality, stored, padding, frame)
    if is_inverted(dataset):
        np.subtract(1.0, grey, out=grey)
    # Behind the inversion, which would turn black padding white.
    if padding is not None:
        grey[padding] = 0.0
    if not np.isfinite(grey).all():
        raise PixelError("the window makes no grey values")
    return np.ascontiguousarray(grey, dtype=np.float32)


def is_inverted(dataset: Dataset) -> bool:
    """Tell whether small values are white.

    MONOCHROME1 and PresentationLUTShape INVERSE state the same thing (PS3.3 section C.8.11.3.1.2: INVERSE goes with
    MONOCHROME1, IDENTITY with MONOCHROME2), so both together invert once. Where a header contradicts itself the shape
    decides, as in DCMTK.
    """
    shape = str(dataset.get("PresentationLUTShape", "") or "").strip()
    if shape in ("INVERSE", "IDENTITY"):
        return shape == "INVERSE"
    return str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1"


def padding_mask(dataset: Dataset, stored: NDArray[np.int32]) -> NDArray[np.bool_] | None:
    """Where the picture is padding (PS3.3 section C.7.5.1.1.2): declared values connected with the edge; None: nowhere.

    Only what touches the edge counts, since the same value also occurs within saturated anatomy.
    """
    first = _stored_value(dataset, "PixelPaddingValue")
    if first is None:
        return None
    last = _stored_value(dataset, "PixelPaddingRangeLimit")
    # By the polarity of the image either of the two may be the larger one.
    low, high = sorted((first, first if last is None else last))
    declared = (stored >= low) & (stored <= high)
    if not declared.any():
        return None
    from scipy import ndimage  # as in `model.images.crop`

    labels, _ = ndimage.label(declared)
    edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    mask: NDArray[np.bool_] = np.isin(labels, edge[edge > 0])
    share = float(mask.mean())
    return mask if 0.0 < share <= MAX_PADDING_SHARE else None


def _modality(dataset: Dataset, stored: NDArray[np.int32], frame: int) -> NDArray[np.float32]:
    """Modality LUT or rescale (PS3.3 section C.11.1), also from the functional groups of an enhanced object."""
    # A LUT excludes a rescale (PS3.3 section C.11.1), so where there is one nothing else is looked at.
    table = _table(dataset, "ModalityLUTSequence", stored)
    if table is not None:
        return table(stored)
    source = _holder(dataset, "PixelValueTransformationSequence", frame)
    slope, intercept = _number(source, "RescaleSlope"), _number(source, "RescaleIntercept")
    values = stored.astype(np.float32)
    if slope in (None, 0.0, 1.0) and not intercept:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        if slope not in (None, 0.0, 1.0):
            values *= np.float32(slope)
        if intercept:
            values += np.float32(intercept)
    if not np.isfinite(values).all():  # a slope of 1e300: all that follows would be no number, and be answered
        raise PixelError(f"rescale slope {slope} and intercept {intercept} make no grey values")
    return values


def _voi(
    dataset: Dataset,
    values: NDArray[np.float32],
    stored: NDArray[np.int32],
    padding: NDArray[np.bool_] | None,
    frame: int,
) -> NDArray[np.float32]:
    """VOI LUT if there is one, else the first window, else the range of the picture itself."""
    source = _holder(dataset, "FrameVOILUTSequence", frame)
    table = _table(source, "VOILUTSequence", values)
    if table is not None:
        return _float32(np.clip(table(values) / np.float32(table.maximum), 0.0, 1.0))
    shown = values if padding is None else values[~padding]
    window = first_window(source)
    if window is not None:
        grey = window(values)
        # Judged on the film alone: padding lies at the end of any window.
        inside = grey if padding is None else grey[~padding]
        at_ends = np.count_nonzero(inside <= 0.0), np.count_nonzero(inside >= 1.0)
        if max(at_ends) / inside.size <= FLAT_SHARE:
            return grey
    if _fills_its_range(dataset, stored):
        return _float32(stored / np.float32(255.0))
    low, high = np.percentile(shown, [LOW_PERCENTILE, HIGH_PERCENTILE])
    if high <= low:
        low, high = float(shown.min()), float(shown.max())
    return _float32(np.clip((values - low) / max(float(high - low), 1e-6), 0.0, 1.0))


def _fills_its_range(dataset: Dataset, stored: NDArray[np.int32]) -> bool:
    """An 8-bit picture without a window that uses at least half of 0..255 was made for display: shown as it is."""
    if dataset.get("BitsStored") != 8 or _is_signed(dataset) or "ModalityLUTSequence" in dataset:
        return False
    return int(stored.max()) - int(stored.min()) >= 128


def first_window(source: Dataset) -> Window | None:
    """The first centre and width that make sense; None where there is none."""
    centre, width = _number(source, "WindowCenter"), _number(source, "WindowWidth")
    if centre is None or width is None:
        return None
    try:
        function = VoiFunction(str(source.get("VOILUTFunction") or "LINEAR").strip().upper())
    except ValueError:
        function = VoiFunction.LINEAR  # PS3.3 C.11.2.1.3: LINEAR is what a missing value means; unknown is as good
    if width < (1.0 if function is VoiFunction.LINEAR else 1e-9):
        return None
    return Window(centre=centre, width=width, function=function)


def _table(source: Dataset, sequence: str, inputs: NDArray[Any]) -> LookupTable | None:
    """The first LUT of a sequence for these inputs; None where there is none or it is damaged."""
    items = source.get(sequence)
    if not items:
        return None
    descriptor, raw = items[0].get("LUTDescriptor"), items[0].get("LUTData")
    if descriptor is None or raw is None or len(descriptor) != 3:
        return None
    try:
        count, first, bits = (int(v) for v in descriptor)
        data = _table_values(raw, bits)
    except (TypeError, ValueError):
        return None
    count = count % 65536 or 65536  # 0 means 65536 entries; a negative number is a US read as SS
    if not 8 <= bits <= 16 or len(data) < count:
        return None
    data = data[:count].astype(np.float32)
    return LookupTable(first=_first_input(first, count, inputs), data=data, maximum=float(2**bits - 1))


def _first_input(first: int, count: int, inputs: NDArray[Any]) -> int:
    """The first input of a LUT, as it was written or in the other sign: US and SS are easily taken for each other.

    The one whose LUT covers more of the inputs' range; read in the wrong sign a LUT lies beside all of them.
    """
    low, high = float(inputs.min()), float(inputs.max())
    # The second value of a LUT descriptor is US or SS by the pixels' sign (PS3.3 C.11.1.1.1), and implicit VR does not
    # say which.
    other = first - 65536 if first > 32767 else first + 65536 if first < 0 else first

    def cover(start: int) -> float:
        return min(start + count - 1, high) - max(start, low)

    return other if cover(other) > cover(first) else first


def _table_values(raw: Any, bits: int) -> NDArray[Any]:
    if isinstance(raw, bytes):
        words = np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<u2")
        # Entries of eight bits lie in words of their own, or two in a word: a word above 255 tells which the writer
        # chose.
        packed = bits == 8 and words.size > 0 and int(words.max()) > 255
        return np.frombuffer(raw, dtype=np.uint8) if packed else words
    # LUT Data that was read as SS has its upper half as negative numbers.
    return np.atleast_1d(np.asarray(raw, dtype=np.int64)) & 0xFFFF


def _holder(dataset: Dataset, macro: str, frame: int) -> Dataset:
    """The item that holds a macro's elements: per frame, shared, or the data set itself."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    candidates = [*groups[frame : frame + 1], *(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]]
    for group in candidates:
        items = group.get(macro)
        if items:
            item: Dataset = items[0]
            return item
    return dataset


def _number(source: Dataset, keyword: str) -> float | None:
    """The first value of a numeric element, None where it is missing, empty or no finite number."""
    value = source.get(keyword)
    if value is not None and not isinstance(value, (str, bytes, int, float)) and hasattr(value, "__getitem__"):
        value = value[0] if len(value) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _stored_value(dataset: Dataset, keyword: str) -> int | None:
    """A US or SS element in the sign of the pixels, whichever of both the writer used."""
    value = dataset.get(keyword)
    if not isinstance(value, int):
        return None
    bits = int(dataset.get("BitsAllocated", 16))
    # Down to the bits as stored, then up again in the pixels' sign.
    number: int = int(value) % (1 << bits)
    return number - (1 << bits) if _is_signed(dataset) and number >= 1 << (bits - 1) else number


def _float32(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def _is_signed(dataset: Dataset) -> bool:
    return bool(dataset.get("PixelRepresentation", 0) == 1)
