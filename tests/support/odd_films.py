"""Films with odd, hostile or senseless headers and pixels, as changes of a good film."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from tests.support.chain import copied, encoded

PIXELS = b"\xe0\x7f\x10\x00"


@dataclass(frozen=True, kw_only=True)
class Odd:
    """An odd film: elements that are set (None: removed), or bytes that are changed. says: why its pixels are refused;
    empty where it is shown, or may be."""

    elements: Mapping[str, Any] = field(default_factory=dict)
    raw: Callable[[bytes], bytes] | None = None
    syntax: str = ExplicitVRLittleEndian
    says: str = ""

    def bytes_of(self, film: Dataset) -> bytes:
        """The film's data set with the oddity."""
        elements = {key: value for key, value in self.elements.items() if value is not None or key in film}
        data = encoded(copied(film, **elements))
        return self.raw(data) if self.raw else data


def raw_element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC"):
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value) & 0xFFFF) + value


def put(tag: int, vr: bytes, value: bytes) -> Callable[[bytes], bytes]:
    """An element as raw bytes, in the place of its tag's own or where it belongs."""
    new = raw_element(tag, vr, value)

    def change(data: bytes) -> bytes:
        place = 0
        while True:
            group, element, kind = struct.unpack_from("<HH2s", data, place)
            long = kind in (b"OB", b"OW", b"SQ", b"UN", b"UT")
            length = (
                struct.unpack_from("<I", data, place + 8)[0] if long else struct.unpack_from("<H", data, place + 6)[0]
            )
            end = place + (12 if long else 8) + length
            if (group << 16 | element) >= tag:
                return data[:place] + new + data[end if (group << 16 | element) == tag else place :]
            place = end

    return change


def pixels(head: bytes, body: Callable[[bytes], bytes] = lambda value: value) -> Callable[[bytes], bytes]:
    """Pixel data with another head (VR, reserved, length) and body."""

    def change(data: bytes) -> bytes:
        at = data.rindex(PIXELS + b"OW")
        return data[: at + 4] + head + body(data[at + 12 :])

    return change


def nested(depth: int) -> bytes:
    head = struct.pack("<HH2sHI", 0x0009, 0x1001, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    return head * depth + struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0) * depth


def before(data: bytes, group: int, more: bytes) -> bytes:
    """Bytes put before the first element of a group."""
    return put(group << 16, b"UN", b"")(data).replace(raw_element(group << 16, b"UN", b""), more, 1)


def fragments(*parts: bytes) -> Callable[[bytes], bytes]:
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + b"".join(
        struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part for part in parts
    )
    return pixels(b"OB\0\0\xff\xff\xff\xff", lambda _: items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))


def rle(count: int, *offsets: int, body: bytes = bytes(64)) -> bytes:
    return struct.pack("<16I", count, *(*offsets, *(0,) * 15)[:15]) + body


JPEG_HEAD = b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">HH", 65535, 65535) + b"\x01\x01\x11\x00\xff\xd9"
EMPTY_LUT = Dataset()
EMPTY_LUT.LUTDescriptor = [0, 0, 16]
EMPTY_LUT.LUTData = b""
SHORT_LUT = Dataset()
SHORT_LUT.LUTDescriptor = [4096, 0, 16]
SHORT_LUT.LUTData = b"\1\2"
LONG_WORD = "A" * 20_000

ODD: dict[str, Odd] = {
    "frames 65535": Odd(elements={"NumberOfFrames": 65535}, says="too large"),
    "frames 0": Odd(raw=put(0x00280008, b"IS", b"0 ")),
    "frames no number": Odd(raw=put(0x00280008, b"IS", b"many")),
    "YBR in one sample": Odd(elements={"PhotometricInterpretation": "YBR_FULL"}, says="contradict"),
    "no Rows": Odd(elements={"Rows": None}, says="Rows is missing"),
    "Rows 0": Odd(elements={"Rows": 0}, says="Rows is 0"),
    "Rows twice": Odd(raw=put(0x00280010, b"US", b"\0\2\0\2")),
    "one pixel": Odd(elements={"Rows": 1, "Columns": 1}),
    "more bits stored than allocated": Odd(elements={"BitsStored": 20, "HighBit": 19}, says="20 bits stored in 16"),
    "32 bits": Odd(elements={"BitsAllocated": 32}, says="in 32"),
    "sign 7": Odd(elements={"PixelRepresentation": 7}),
    "samples 65535": Odd(elements={"SamplesPerPixel": 65535}),
    "high bit 255": Odd(elements={"HighBit": 255}, says="HighBit 255"),
    "LUT without entries": Odd(elements={"VOILUTSequence": [EMPTY_LUT]}),
    "LUT cut off": Odd(elements={"VOILUTSequence": [SHORT_LUT]}),
    "modality LUT cut off": Odd(
        elements={"ModalityLUTSequence": [SHORT_LUT], "RescaleSlope": None, "RescaleIntercept": None}
    ),
    "window -100": Odd(elements={"WindowCenter": 100, "WindowWidth": -100}),
    "window no number": Odd(raw=put(0x00281051, b"DS", b"wide")),
    "window infinite": Odd(raw=put(0x00281051, b"DS", b"1e999 ")),
    "window nan": Odd(raw=put(0x00281050, b"DS", b"nan ")),
    "slope 0": Odd(elements={"RescaleIntercept": 0, "RescaleSlope": 0}),
    "slope nan": Odd(raw=put(0x00281053, b"DS", b"nan ")),
    "slope 1e300": Odd(raw=put(0x00281053, b"DS", b"1e300 "), says="no grey values"),
    "spacing 0": Odd(raw=put(0x00181164, b"DS", b"0\\0 ")),
    "spacing nan": Odd(raw=put(0x00181164, b"DS", b"nan\\nan ")),
    "spacing 1e-300": Odd(raw=put(0x00181164, b"DS", b"1e-300\\1")),
    "odd number of bytes": Odd(
        raw=pixels(b"OB\0\0" + struct.pack("<I", 511), lambda value: value[:511]), says="cut off"
    ),
    "undefined length of native pixels": Odd(raw=pixels(b"OW\0\0\xff\xff\xff\xff"), says="pixel data have no end"),
    "length of pixels beyond the file": Odd(raw=pixels(b"OW\0\0\xfe\xff\xff\xff")),
    "no pixels": Odd(raw=pixels(b"OW\0\0\0\0\0\0", lambda _: b""), says="cut off"),
    "float pixels": Odd(
        raw=lambda data: data[: data.rindex(PIXELS)] + b"\xe0\x7f\x08\x00OF\0\0\4\0\0\0" + bytes(4),
        says="FloatPixelData",
    ),
    "RLE without segments": Odd(raw=fragments(rle(0)), syntax=RLELossless, says="pixel data"),
    "RLE of 15 segments behind the end": Odd(
        raw=fragments(rle(15, *range(1 << 30, (1 << 30) + 15))), syntax=RLELossless, says="pixel data"
    ),
    "RLE with offsets that go back": Odd(raw=fragments(rle(2, 100, 64)), syntax=RLELossless, says="pixel data"),
    "RLE that runs on": Odd(
        raw=fragments(rle(2, 64, 66, body=b"\x7f\x00" * 4000)), syntax=RLELossless, says="pixel data"
    ),
    "JPEG of 65535 x 65535": Odd(raw=fragments(JPEG_HEAD), syntax=JPEGBaseline8Bit, says="65535"),
    "no fragment": Odd(raw=fragments(), syntax=JPEGBaseline8Bit, says="pixel data"),
    "fragment longer than the file": Odd(
        raw=pixels(
            b"OB\0\0\xff\xff\xff\xff", lambda _: struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, 0xFFFFFFF0)
        ),
        syntax=JPEGBaseline8Bit,
        says="pixel data",
    ),
    "sequences 2000 deep": Odd(raw=lambda data: before(data, 0x0010, nested(2000))),
    "character set of no name": Odd(raw=put(0x00080005, b"CS", b"ISO 2022 IR 9999\\\\KLINGON\\\\ ")),
    "date of zeros": Odd(raw=put(0x00080020, b"DA", b"00000000")),
    "date of words": Odd(raw=put(0x00080020, b"DA", b"tomorrow")),
    "date at the end of time": Odd(raw=put(0x00080020, b"DA", b"99991231")),
    "date at the beginning of time": Odd(raw=put(0x00080020, b"DA", b"00010101")),
    "date range": Odd(raw=put(0x00080020, b"DA", b"20260101-20270101 ")),
    "time of words": Odd(raw=put(0x00080030, b"TM", b"99:99:99")),
    "moment that is none": Odd(raw=put(0x0008002A, b"DT", b"20269999999999.999999+9999")),
    "moment at the end of time": Odd(raw=put(0x0008002A, b"DT", b"99991231235959.999999-1400")),
    "time zone of words": Odd(raw=put(0x00080201, b"SH", b"+9999 ")),
    "name of 20,000 letters": Odd(elements={"PatientName": LONG_WORD}),
    "name with escapes": Odd(raw=put(0x00100010, b"PN", b"\x1b$)C\x1b(J\xff\xfe\x00\x1b^\x1b=\x1b=\x1b=a=")),
    "name of six groups": Odd(raw=put(0x00100010, b"PN", b"a^b^c^d^e^f^g=h=i=j=k=l ")),
    "birth date 99999999": Odd(raw=put(0x00100030, b"DA", b"99999999")),
    "age of words": Odd(raw=put(0x00101010, b"AS", b"9999Y ")),
    "sex twice": Odd(raw=put(0x00100040, b"CS", b"M\\F ")),
    "accession number twice": Odd(raw=put(0x00080050, b"SH", b"A\\B ")),
    "view positions twice": Odd(raw=put(0x00185101, b"CS", b"PA\\AP ")),
    "image type of 9,000 values": Odd(raw=put(0x00080008, b"CS", b"\\".join([b"A"] * 9000))),
    "series number of words": Odd(raw=put(0x00200011, b"IS", b"1e99")),
    "instance number beyond": Odd(raw=put(0x00200013, b"IS", b"-99999999999")),
    "view code that is text": Odd(raw=put(0x00540220, b"LO", b"PA view ")),
    "procedure code without items": Odd(raw=put(0x00081032, b"SQ", b"")),
    "procedure code of empty items": Odd(raw=put(0x00081032, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 500)),
    "other identifiers by the thousand": Odd(raw=put(0x00101002, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 9000)),
    "padding value of text": Odd(raw=put(0x00280120, b"LO", b"none")),
    "frame of reference of text": Odd(raw=put(0x00200052, b"UI", b"not-a-uid ")),
    "overlay of 65535 rows": Odd(
        raw=lambda data: before(
            data, 0x7FE0, raw_element(0x60000010, b"US", b"\xff\xff") + raw_element(0x60003000, b"OW", bytes(64))
        )
    ),
    "presentation LUT inverse": Odd(elements={"PresentationLUTShape": "INVERSE"}),
}
