"""Tolerant reading of a data set's header: bytes of a peer → plain, normalised values. Never raises on what is wrong.

Only the elements that the index needs are looked at, in one pass without recursion, so that neither a deep nor a huge
sequence costs memory or stack (PS3.5 section 6.2 for the values; `dicom_node.dicom.elements` for the encoding).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.dicom.dates import normalise_date, normalise_time
from dicom_node.dicom.elements import PIXEL_DATA, Element, Encoding, elements, items
from dicom_node.dicom.text import character_sets, decode_text, without_controls

HEADER_BYTES: Final = 256 << 10
"""So much of a data set's start is looked at; what the index needs stands in groups 0008 to 0028."""
LONG_HEADER_BYTES: Final = 32 << 20
"""So much is looked at, once, of an object whose header goes on behind HEADER_BYTES."""
_INFLATED_BYTES: Final = 1 << 20
_MAX_VALUE_BYTES: Final = 10_240
_MAX_ITEMS: Final = 32
_MAX_TEXT: Final = 255

_OTHER_PATIENT_IDS = 0x00101002

_CHARACTER_SET = 0x00080005
_DATES_AND_TIMES = (
    (0x00080022, 0x00080032),
    (0x00080023, 0x00080033),
    (0x00080021, 0x00080031),
    (0x00080020, 0x00080030),
)
"""Acquisition, Content, Series, Study."""
_ACQUISITION_DATE_TIME = 0x0008002A
_WANTED = frozenset(
    {
        *(_CHARACTER_SET, 0x00080008, 0x00080016, 0x00080018, _ACQUISITION_DATE_TIME, 0x00080050, 0x00080060),
        *(tag for pair in _DATES_AND_TIMES for tag in pair),
        *(0x00080068, 0x00080070, 0x00081030, 0x0008103E, 0x00081090),
        *(0x00100010, 0x00100020, 0x00100021, 0x00100030, 0x00100040, _OTHER_PATIENT_IDS),
        *(0x00180015, 0x00185101, 0x0020000D, 0x0020000E, 0x00200010, 0x00200011, 0x00200013, 0x00200062),
        *(0x00280008, 0x00280010, 0x00280011),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceHeader:
    """The elements of one instance that the index keeps. Text is Unicode; "" or None: missing or not understood."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    """Groups joined by "=", components by "^"; trailing empty ones removed."""
    patient_birth_date: str = ""
    """YYYYMMDD, "" where missing or no date."""
    patient_sex: str = ""
    other_patient_ids: tuple[Mapping[str, str], ...] = field(default=())
    """{"id": …, "issuer": …} each."""
    accession_number: str = ""
    study_id: str = ""
    study_date: str = ""
    """YYYYMMDD."""
    study_time: str = ""
    """HHMMSS.FFFFFF."""
    study_description: str = ""
    modality: str = ""
    series_number: int | None = None
    series_description: str = ""
    body_part_examined: str = ""
    view_position: str = ""
    laterality: str = ""
    presentation_intent_type: str = ""
    image_type: str = ""
    """Values joined by a backslash."""
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None
    instance_number: int | None = None
    acquired_at: str = ""
    """Local YYYYMMDDHHMMSS.FFFFFF: the first valid of Acquisition-, Content-, Series- and StudyDate with its time."""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    elements: int = 0
    """The number of elements that were understood; 0 means that the bytes are no data set at all."""
    is_cut_short: bool = False
    """True if the bytes that were looked at ended before the header did."""
    has_compressed_pixels: bool = False
    """True if its pixel data are encapsulated (PS3.5 section A.4)."""


def read_header(
    data_set: bytes | bytearray | memoryview, transfer_syntax_uid: str, *, max_bytes: int = HEADER_BYTES
) -> InstanceHeader:
    """Read the header of a data set as its peer encoded it; its first `max_bytes` are looked at. Never raises.

    Of an element that stands there twice the first counts, as for DCMTK; elements may come in any order.
    """
    data = bytes(memoryview(data_set)[:max_bytes])
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        data = inflate_start(data, max(max_bytes, _INFLATED_BYTES))
    encoding = encoding_of(transfer_syntax_uid)
    values: dict[int, bytes] = {}
    others: tuple[Mapping[int, bytes], ...] = ()
    count, position, has_pixels, is_compressed = 0, 0, False, False
    for element in elements(data, 0, len(data), encoding):
        count += 1
        position, has_pixels = element.end, element.tag in PIXEL_DATA
        is_compressed = has_pixels and element.is_undefined
        if element.tag == _OTHER_PATIENT_IDS:
            others = others or tuple(_items(data, element, encoding))
        elif element.tag in _WANTED and not element.is_undefined:
            # `setdefault`: of an element that stands there twice the first counts.
            values.setdefault(element.tag, _short_value(data, element))
    # No element is shorter than eight bytes: with fewer left, nobody can tell whether another one follows.
    is_cut_short = count > 0 and not has_pixels and position + 8 > len(data)
    return _header(
        values, others, encoding.order, count, is_cut_short=is_cut_short, has_compressed_pixels=is_compressed
    )


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """The encoding of a data set in this transfer syntax (PS3.5 annex A)."""
    return Encoding(
        implicit=transfer_syntax_uid == ImplicitVRLittleEndian, big_endian=transfer_syntax_uid == ExplicitVRBigEndian
    )


def _header(
    values: Mapping[int, bytes],
    others: tuple[Mapping[int, bytes], ...],
    order: str,
    count: int,
    *,
    is_cut_short: bool,
    has_compressed_pixels: bool,
) -> InstanceHeader:
    declared = character_sets(values.get(_CHARACTER_SET, b""))

    def text(tag: int, limit: int = _MAX_TEXT) -> str:
        if not values.get(tag):
            return ""  # most elements are missing or empty
        return without_controls(decode_text(values.get(tag, b""), declared))[:limit].strip()

    return InstanceHeader(
        sop_class_uid=_uid(values, 0x00080016),
        sop_instance_uid=_uid(values, 0x00080018),
        study_instance_uid=_uid(values, 0x0020000D),
        series_instance_uid=_uid(values, 0x0020000E),
        patient_id=text(0x00100020, 64),
        issuer_of_patient_id=text(0x00100021, 64),
        patient_name=_person_name(values.get(0x00100010, b""), declared),
        patient_birth_date=normalise_date(_plain(values, 0x00100030)),
        patient_sex=_code_string(values, 0x00100040),
        other_patient_ids=tuple(_other_ids(others, declared)),
        accession_number=text(0x00080050, 64),
        study_id=text(0x00200010, 64),
        study_date=normalise_date(_plain(values, 0x00080020)),
        study_time=normalise_time(_plain(values, 0x00080030)),
        study_description=text(0x00081030),
        modality=_code_string(values, 0x00080060),
        series_number=_integer(values, 0x00200011),
        series_description=text(0x0008103E),
        body_part_examined=_code_string(values, 0x00180015),
        view_position=_code_string(values, 0x00185101),
        laterality=_code_string(values, 0x00200062),
        presentation_intent_type=_code_string(values, 0x00080068),
        image_type=_plain(values, 0x00080008)[:_MAX_TEXT].upper(),
        rows=_read_unsigned(values, 0x00280010, order),
        columns=_read_unsigned(values, 0x00280011, order),
        number_of_frames=_integer(values, 0x00280008),
        instance_number=_integer(values, 0x00200013),
        acquired_at=_acquisition_moment(values),
        manufacturer=text(0x00080070),
        manufacturer_model_name=text(0x00081090),
        elements=count,
        is_cut_short=is_cut_short,
        has_compressed_pixels=has_compressed_pixels,
    )


def _code_string(values: Mapping[int, bytes], tag: int) -> str:
    """The value of an element of VR CS in capitals, at most as long as its column."""
    return _plain(values, tag)[:64].upper()


def _short_value(data: bytes, element: Element) -> bytes:
    """The value's bytes; none of one that is cut off or too long to be what the index wants."""
    is_whole = element.end <= len(data) and element.end - element.start <= _MAX_VALUE_BYTES
    return data[element.start : element.end] if is_whole else b""


def _items(data: bytes, sequence: Element, encoding: Encoding) -> Iterator[Mapping[int, bytes]]:
    """The items of a short sequence as tag → value; sequences inside of them are passed over."""
    # A sequence that was written as UN holds implicit VR, whatever the file has (PS3.5 6.2.2, note).
    inner = Encoding(implicit=True) if sequence.vr == "UN" else encoding
    for number, (start, end) in enumerate(items(data, sequence, inner)):
        if number == _MAX_ITEMS:
            return
        yield {
            element.tag: data[element.start : min(element.end, element.start + _MAX_VALUE_BYTES)]
            for element in elements(data, start, end, inner)
            if not element.is_undefined and element.end <= end
        }


def inflate_start(data: bytes, max_bytes: int) -> bytes:
    """Inflate the start of a deflated data set (PS3.5 section A.5), at most `max_bytes` of it; b"" if it is none."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max_bytes)
    except zlib.error:
        return b""


def _person_name(value: bytes, declared: list[str]) -> str:
    """Decoded as a whole before it is split: inside a two-byte Japanese character "=" and "^" are ordinary bytes."""
    groups = without_controls(decode_text(value, declared)).split("=")
    named = ["^".join(component.strip() for component in group.split("^")).rstrip("^") for group in groups]
    return "=".join(named).rstrip("=")[:_MAX_TEXT]


def _other_ids(items: tuple[Mapping[int, bytes], ...], declared: list[str]) -> Iterator[Mapping[str, str]]:
    for item in items:
        identifier, issuer = (
            without_controls(decode_text(item.get(tag, b""), declared)).strip()[:64] for tag in (0x00100020, 0x00100021)
        )
        if identifier:
            yield {"id": identifier, "issuer": issuer}


def _acquisition_moment(values: Mapping[int, bytes]) -> str:
    both = _plain(values, _ACQUISITION_DATE_TIME)
    # AcquisitionDateTime first; its zone (+0100) is cut off, since the other dates have none.
    candidates = [(both[:8], both[8:].split("+")[0].split("-")[0])] if both else []
    candidates += [(_plain(values, date), _plain(values, time)) for date, time in _DATES_AND_TIMES]
    for date, time in candidates:
        if day := normalise_date(date):
            return day + (normalise_time(time) or "000000.000000")
    return ""


def _plain(values: Mapping[int, bytes], tag: int) -> str:
    """A value of the default repertoire (codes, dates, UIDs), padding removed."""
    value = values.get(tag)
    return without_controls(value.decode("ascii", "replace")).strip() if value else ""


def _uid(values: Mapping[int, bytes], tag: int) -> str:
    """A UID without its padding. A NUL inside stays, so that it is none: without it, it would name another object."""
    return values.get(tag, b"").decode("ascii", "replace").strip("\x00 ")


def _integer(values: Mapping[int, bytes], tag: int) -> int | None:
    """An IS, where it is one and fits a 32 bit column."""
    try:
        number = int(_plain(values, tag))
    except ValueError:
        return None
    return number if -(2**31) <= number < 2**31 else None


def _read_unsigned(values: Mapping[int, bytes], tag: int, order: str) -> int | None:
    value = values.get(tag, b"")
    return int(struct.unpack_from(order + "H", value)[0]) if len(value) >= 2 else None
