"""Tolerant reading of a data set's header: bytes of a peer → plain, normalised values. Never raises on what is wrong.

Only the elements that the index needs are looked at, in one pass without recursion, so that neither a deep nor a huge
sequence costs memory or stack (PS3.5 section 7 for the encoding, section 6.2 for the values).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydicom.charset import decode_bytes, python_encoding
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

HEADER_BYTES: Final = 256 << 10
"""So much of a data set's start is looked at; what the index needs stands in groups 0008 to 0028."""
_INFLATED_BYTES: Final = 1 << 20
_MAX_VALUE_BYTES: Final = 10_240
_MAX_ITEMS: Final = 32
_MAX_TEXT: Final = 255

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_PIXEL_DATA = 0x7FE00010
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
_LAST_WANTED = max(_WANTED)
_DEFAULT_ENCODING: Final = python_encoding[""]
_DATE = re.compile(r"(\d{4})[.\-/]?(\d{2})[.\-/]?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(?:\.(\d{1,6}))?)?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceHeader:
    """What the index keeps of one instance. Text is Unicode; "" or None stands for missing or not understood."""

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
    """How many elements of the data set were understood; 0 means that the bytes are no data set at all."""


def read_header(data_set: bytes | bytearray | memoryview, transfer_syntax_uid: str) -> InstanceHeader:
    """The header of a data set as its peer encoded it; the start of it (HEADER_BYTES) is enough. Never raises."""
    data = bytes(data_set[:HEADER_BYTES])
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        data = _inflated(data)
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    order = ">" if transfer_syntax_uid == ExplicitVRBigEndian else "<"
    values: dict[int, bytes] = {}
    others: tuple[Mapping[int, bytes], ...] = ()
    count = 0
    for tag, value, start in _elements(data, implicit, order):
        count += 1
        if tag == _OTHER_PATIENT_IDS:
            others = tuple(_items(data, start, value, implicit, order))
        elif tag in _WANTED and value is not None:
            values.setdefault(tag, value)
    return _header(values, others, order, count)


def normalised_date(text: str) -> str:
    """YYYYMMDD of a DA (also 1999.12.31 and 1999-12-31, which old and careless peers send), or ""."""
    match = _DATE.match(text.strip())
    if match is None:
        return ""
    year, month, day = match.groups()
    valid = year != "0000" and 1 <= int(month) <= 12 and 1 <= int(day) <= _days(int(year), int(month))
    return year + month + day if valid else ""


def normalised_time(text: str) -> str:
    """HHMMSS.FFFFFF of a TM (also HH:MM:SS), missing parts as zeros, or ""."""
    match = _TIME.match(text.strip())
    if match is None:
        return ""
    hour, minute, second, fraction = (part or "" for part in match.groups())
    # 60 is a leap second (PS3.5 table 6.2-1).
    if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 60:
        return ""
    return f"{hour}{minute or '00'}{second or '00'}.{fraction:0<6}"


def decoded(value: bytes, character_sets: list[str]) -> str:
    """Text of a value by the declared character sets; where these are missing or wrong by UTF-8, else Latin-1.

    character_sets: Python encodings, [] where none but the default repertoire was declared. Never raises.
    """
    for encodings in (character_sets or ["ascii"], ["utf-8"], ["latin-1"]):
        try:
            text = decode_bytes(value, encodings, set()) if b"\x1b" in value else value.decode(encodings[0])
        except (UnicodeError, LookupError, ValueError):
            continue
        if "\ufffd" not in text:
            break
    return text.replace("\x00", "").strip()


def _header(
    values: Mapping[int, bytes], others: tuple[Mapping[int, bytes], ...], order: str, count: int
) -> InstanceHeader:
    character_sets = _character_sets(values.get(_CHARACTER_SET, b""))

    def text(tag: int, limit: int = _MAX_TEXT) -> str:
        return decoded(values.get(tag, b""), character_sets)[:limit].strip()

    return InstanceHeader(
        sop_class_uid=_plain(values, 0x00080016),
        sop_instance_uid=_plain(values, 0x00080018),
        study_instance_uid=_plain(values, 0x0020000D),
        series_instance_uid=_plain(values, 0x0020000E),
        patient_id=text(0x00100020, 64),
        issuer_of_patient_id=text(0x00100021, 64),
        patient_name=_person_name(values.get(0x00100010, b""), character_sets),
        patient_birth_date=normalised_date(_plain(values, 0x00100030)),
        patient_sex=_plain(values, 0x00100040)[:64].upper(),
        other_patient_ids=tuple(_other_ids(others, character_sets)),
        accession_number=text(0x00080050, 64),
        study_id=text(0x00200010, 64),
        study_date=normalised_date(_plain(values, 0x00080020)),
        study_time=normalised_time(_plain(values, 0x00080030)),
        study_description=text(0x00081030),
        modality=_plain(values, 0x00080060)[:64].upper(),
        series_number=_integer(values, 0x00200011),
        series_description=text(0x0008103E),
        body_part_examined=_plain(values, 0x00180015)[:64].upper(),
        view_position=_plain(values, 0x00185101)[:64].upper(),
        laterality=_plain(values, 0x00200062)[:64].upper(),
        presentation_intent_type=_plain(values, 0x00080068)[:64].upper(),
        image_type=_plain(values, 0x00080008)[:_MAX_TEXT].upper(),
        rows=_unsigned(values, 0x00280010, order),
        columns=_unsigned(values, 0x00280011, order),
        number_of_frames=_integer(values, 0x00280008),
        instance_number=_integer(values, 0x00200013),
        acquired_at=_acquired_at(values),
        manufacturer=text(0x00080070),
        manufacturer_model_name=text(0x00081090),
        elements=count,
    )


def _elements(data: bytes, implicit: bool, order: str) -> Iterator[tuple[int, bytes | None, int]]:
    """(tag, value, offset of the value) of the top level; the value is None where its length is undefined.

    Ends at the first thing that cannot be an element, at pixel data, and past the last wanted tag.
    """
    position, last = 0, -1
    while True:
        head = _element_head(data, position, implicit, order)
        if head is None:
            return
        tag, length, start = head
        # Elements ascend (PS3.5 section 7.1): a smaller tag means that we read values as if they were elements.
        if tag <= last or tag >= _PIXEL_DATA:
            return
        last = tag
        if length == _UNDEFINED:
            yield tag, None, start
            position = _skipped(data, start, implicit, order)
        else:
            end = start + length
            short = length <= _MAX_VALUE_BYTES and end <= len(data)
            yield tag, data[start:end] if short else b"", start
            position = end
        if position > len(data) or tag > _LAST_WANTED:
            return


def _element_head(data: bytes, position: int, implicit: bool, order: str) -> tuple[int, int, int] | None:
    """(tag, length, offset of the value), or None where there is no whole element head."""
    if position + 8 > len(data):
        return None
    group, element = struct.unpack_from(order + "HH", data, position)
    tag = group << 16 | element
    if implicit or group == 0xFFFE:
        (length,) = struct.unpack_from(order + "I", data, position + 4)
        return tag, length, position + 8
    vr = data[position + 4 : position + 6]
    if not (vr.isalpha() and vr.isupper()):
        return None
    if vr not in _LONG_VRS:
        (length,) = struct.unpack_from(order + "H", data, position + 6)
        return tag, length, position + 8
    if position + 12 > len(data):
        return None
    (length,) = struct.unpack_from(order + "I", data, position + 8)
    return tag, length, position + 12


def _skipped(data: bytes, position: int, implicit: bool, order: str) -> int:
    """The offset behind a sequence of undefined length that begins at `position`; past the end where it has none."""
    depth = 1
    while depth:
        head = _element_head(data, position, implicit, order)
        if head is None:
            return len(data) + 1
        tag, length, start = head
        if tag in (_ITEM_END, _SEQUENCE_END):
            # An item of undefined length opened one level, so did its sequence.
            depth -= 1
            position = start
        elif length == _UNDEFINED:
            depth += 1
            position = start
        elif tag == _ITEM:
            position = start + length
        else:
            position = start + length
    return position


def _items(data: bytes, start: int, value: bytes | None, implicit: bool, order: str) -> Iterator[Mapping[int, bytes]]:
    """The items of a short sequence as tag → value; sequences inside of them are passed over."""
    end = _skipped(data, start, implicit, order) if value is None else start + len(value)
    position = start
    for _ in range(_MAX_ITEMS):
        head = _element_head(data, position, implicit, order)
        if head is None or head[0] != _ITEM or position >= end:
            return
        _, length, inside = head
        until = min(end, len(data)) if length == _UNDEFINED else min(inside + length, end, len(data))
        item: dict[int, bytes] = {}
        position = inside
        while position < until:
            head = _element_head(data, position, implicit, order)
            if head is None:
                return
            tag, size, begin = head
            if tag in (_ITEM_END, _SEQUENCE_END):
                position = begin
                break
            if size == _UNDEFINED:
                position = _skipped(data, begin, implicit, order)
            else:
                item[tag] = data[begin : begin + min(size, _MAX_VALUE_BYTES)]
                position = begin + size
        yield item


def _inflated(data: bytes) -> bytes:
    """The start of a deflated data set (PS3.5 section A.5), at most _INFLATED_BYTES of it."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, _INFLATED_BYTES)
    except zlib.error:
        return b""


def _character_sets(value: bytes) -> list[str]:
    """Python encodings for SpecificCharacterSet (PS3.3 section C.12.1.1.2); unknown terms count as the default.

    Only names of DICOM's own table are looked up: a peer must not choose among all of Python's codecs.
    """
    names = value.decode("ascii", "replace").replace("\x00", "").upper().split("\\")
    encodings = []
    for name in (" ".join(name.replace("_", " ").replace("-", " ").split()) for name in names):
        for spelled in (name, name.replace("ISO IR", "ISO_IR"), name.replace("ISO2022", "ISO 2022")):
            if spelled in python_encoding:
                encodings.append(python_encoding[spelled])
                break
        else:
            encodings.append(_DEFAULT_ENCODING)
    return [] if encodings == [_DEFAULT_ENCODING] else encodings


def _person_name(value: bytes, character_sets: list[str]) -> str:
    """Decoded as a whole before it is split: inside a two-byte Japanese character "=" and "^" are ordinary bytes."""
    groups = decoded(value, character_sets).split("=")
    named = ["^".join(component.strip() for component in group.split("^")).rstrip("^") for group in groups]
    return "=".join(named).rstrip("=")[:_MAX_TEXT]


def _other_ids(items: tuple[Mapping[int, bytes], ...], character_sets: list[str]) -> Iterator[Mapping[str, str]]:
    for item in items:
        identifier = decoded(item.get(0x00100020, b""), character_sets)[:64]
        if identifier:
            yield {"id": identifier, "issuer": decoded(item.get(0x00100021, b""), character_sets)[:64]}


def _acquired_at(values: Mapping[int, bytes]) -> str:
    both = _plain(values, _ACQUISITION_DATE_TIME)
    candidates = [(both[:8], both[8:].split("+")[0].split("-")[0])] if both else []
    candidates += [(_plain(values, date), _plain(values, time)) for date, time in _DATES_AND_TIMES]
    for date, time in candidates:
        if day := normalised_date(date):
            return day + (normalised_time(time) or "000000.000000")
    return ""


def _plain(values: Mapping[int, bytes], tag: int) -> str:
    """A value of the default repertoire (codes, dates, UIDs), padding removed."""
    return values.get(tag, b"").decode("ascii", "replace").replace("\x00", "").strip()


def _integer(values: Mapping[int, bytes], tag: int) -> int | None:
    """An IS, where it is one and fits a 32 bit column."""
    try:
        number = int(_plain(values, tag))
    except ValueError:
        return None
    return number if -(2**31) <= number < 2**31 else None


def _unsigned(values: Mapping[int, bytes], tag: int, order: str) -> int | None:
    value = values.get(tag, b"")
    return int(struct.unpack_from(order + "H", value)[0]) if len(value) >= 2 else None


def _days(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31
