r"""HL7 v2 encoding rules (v2.5.1 chapter 2): delimiters, segments, character sets and escape sequences.

The rules are small enough to stand here, and a library that logs the field it cannot decode would log a patient's
report (docs/adr/0016). Real senders break the rules in a few usual ways; those are read as they are meant: segments
that end by LF or CRLF, blank lines, line feeds inside a text field, spellings of a character set, escapes of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.errors import NodeError

_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}$")
_KNOWN = re.compile(
    "MSH|EVN|PID|PD1|NK1|PV[12]|ORC|OB[RX]|RX[A-Z]|NTE|TQ[12]|CTD|SPM|FT1|CTI|DSC|IPC|AL1|DG1|GT1|IN[12]|PRT|ROL|SFT|UAC|Z[A-Z0-9]{2}"
)
"""Segments of ORU^R01 and its usual additions: a line feed before one of these ends a segment in any message."""
_HEADER_END = re.compile(rb"[\x00-\x1f\x7f]|PID\||(?<=.)MSH\|")
_BREAK = re.compile(r"\r\n|\r|\n")

_CHARSETS = {
    "ASCII": "ascii",
    "USASCII": "ascii",
    "ISOIR6": "ascii",
    "ISO646": "ascii",
    "LATIN1": "iso-8859-1",
    "LATIN9": "iso-8859-15",
    "ISOIR100": "iso-8859-1",
    "ISOIR101": "iso-8859-2",
    "ISOIR109": "iso-8859-3",
    "ISOIR110": "iso-8859-4",
    "ISOIR144": "iso-8859-5",
    "ISOIR127": "iso-8859-6",
    "ISOIR126": "iso-8859-7",
    "ISOIR138": "iso-8859-8",
    "ISOIR148": "iso-8859-9",
    "ISOIR203": "iso-8859-15",
    "ISOIR166": "tis-620",
    "ISOIR192": "utf-8",
    "ISOIR13": "shift_jis",
    "ISOIR87": "iso2022_jp_2",
    "ISOIR159": "iso2022_jp_2",
    "ISOIR149": "euc_kr",
    "KSX1001": "euc_kr",
    "CNS11643": "big5",
    "BIG5": "big5",
    "GB18030": "gb18030",
    "GB180302000": "gb18030",
    "GBK": "gbk",
    "GB2312": "gb2312",
    "UNICODE": "utf-8",
    "UTF8": "utf-8",
    "UNICODEUTF8": "utf-8",
    "ANSI": "cp1252",
    "SHIFTJIS": "shift_jis",
    "EUCKR": "euc_kr",
    "EUCJP": "euc_jp",
    "ISO2022JP": "iso2022_jp_2",
    "KOI8R": "koi8_r",
    "MACINTOSH": "mac_roman",
}
"""MSH-18 (HL7 table 0211, DICOM's terms, everyday spellings) without punctuation → the codec's name."""
_ISO_8859 = re.compile(r"(?:ISO)?(?:IEC)?8859(1[0-1]|1[3-6]|[1-9])(?:\d{4})?$")
_WINDOWS = re.compile(r"(?:WINDOWS|WIN|MSWIN|CP|MS|ANSI)(125[0-8])$")
MAX_FIELDS = 50_000
"""A report has some hundred."""
CHARSET_EXAMPLES = "ASCII, 8859/1 to 8859/16, UNICODE UTF-8, WINDOWS-1252, ISO IR100, GB 18030-2000"

_ESCAPE = re.compile(
    r"\\(?:(?P<letter>[FSTRE])|(?P<none>[PHN])|[Xx](?P<hex>(?:[0-9A-Fa-f]{2})+)|(?P<set>C[0-9A-Fa-f]{4}|M[0-9A-Fa-f]{4,6})"
    r"|(?P<local>Z[0-9A-Za-z]*)|\.(?P<format>[A-Za-z]{2})[ ]?[+-]?\d*)\\"
)
_INDENTS = ("ti", "in", "fi", "nf", "sk")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Hl7Error(NodeError):
    """A message is not taken. code: "AE" (mend it, or send it again) or "AR" (never).

    The text goes into the acknowledgement and the log: it holds no value of the message that may be a patient's.
    """

    def __init__(self, message: str, *, code: str = "AE") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Delimiters:
    """MSH-1 and MSH-2."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment: fields[0] is its name, fields[n] is field n as it was sent. MSH-1 is the field separator itself."""

    fields: tuple[str, ...]
    delimiters: Delimiters
    encoding: str

    @property
    def name(self) -> str:
        """The three letters."""
        return self.fields[0]

    def raw(self, number: int) -> str:
        """Return a field as it was sent, "" where it was not."""
        return self.fields[number].strip() if number < len(self.fields) else ""

    def repetitions(self, number: int) -> list[list[str]]:
        """Return each repetition of a field as its components, escapes decoded."""
        return [
            [self.decode(component).strip() for component in repetition.split(self.delimiters.component)]
            for repetition in self.raw(number).split(self.delimiters.repetition)
        ]

    def component(self, number: int, place: int) -> str:
        """Return a component (from 0) of a field's first repetition, "" where it was not sent."""
        components = self.repetitions(number)[0]
        return components[place] if place < len(components) else ""

    def decode(self, text: str) -> str:
        """Return the text with its escape sequences resolved and without control characters."""
        return unescape(text, self.delimiters, self.encoding)


def header_fields(data: bytes) -> list[str]:
    """Return the fields of the MSH segment, up to its own end by CR, LF or any control character; [] where none begins.

    Text of the segments behind it is never part of the answer, however they are separated.
    """
    start = data[:4000].lstrip(b"\xef\xbb\xbf\r\n\t ")
    if start[:3] != b"MSH" or len(start) < 5:
        return []
    end = _HEADER_END.search(start)
    line = start[: end.start() if end else len(start)].decode("ascii", "replace")
    if len(line) < 5:
        return []  # its end, or another segment, stands where the separator belongs
    return ["MSH", line[3], *line[4:].split(line[3])]


def segments(data: bytes, *, charset: str) -> list[Segment]:
    """Return the segments of a message. charset: where MSH-18 names none. Raises Hl7Error."""
    fields = header_fields(data)
    if data.lstrip()[:3] in (b"FHS", b"BHS"):
        raise Hl7Error("a batch (FHS, BHS) is not taken; send each message in a frame of its own", code="AR")
    if len(fields) < 12 or len(fields[2]) < 4 or len({fields[1], *fields[2]}) != 1 + len(fields[2]):
        raise Hl7Error("the message does not begin with MSH and its delimiters, usually MSH|^~\\&", code="AR")
    encoding = _encoding(fields[18] if len(fields) > 18 else "", charset, fields[2][1])
    try:
        text = data.decode(encoding).lstrip("\ufeff\r\n\t ")
    except UnicodeDecodeError as error:
        raise Hl7Error(f"byte {error.start} is not {encoding}; name the character set in MSH-18") from error
    marks = fields[2]
    # Counted before anything is split: a megabyte of separators would become a million objects.
    if sum(map(text.count, (fields[1], *marks[:2], marks[3]))) > MAX_FIELDS:
        raise Hl7Error(f"the message has more than {MAX_FIELDS} fields", code="AR")
    delimiters = Delimiters(
        field=fields[1], component=marks[0], repetition=marks[1], escape=marks[2], subcomponent=marks[3]
    )
    parsed = []
    for line in _lines(text, fields[1]):
        parts = line.split(fields[1])
        # MSH-1 is the separator itself: put in, the numbers of the fields are those of the Standard.
        if parts[0] == "MSH":
            parts = ["MSH", fields[1], *parts[1:]]
        parsed.append(Segment(fields=tuple(parts), delimiters=delimiters, encoding=encoding))
    return parsed


def _encoding(named: str, default: str, repetition: str) -> str:
    """Return the codec that MSH-18 names. Raises Hl7Error naming the character set."""
    names = [re.sub(r"[^A-Z0-9]", "", name.upper()) for name in named.split(repetition)]
    encodings = [_codec(name) for name in names if name]
    if any(encoding == "iso2022_jp_2" for encoding in encodings):
        return "iso2022_jp_2"  # ASCII with escapes to kanji is sent as "ASCII~ISO IR87"
    if not names[0]:
        return default
    if encodings[0] is None:
        shown = named if re.fullmatch(r"[A-Za-z0-9 ./_-]{1,20}", named) else "of MSH-18"
        raise Hl7Error(f"character set {shown} is not known; known: {CHARSET_EXAMPLES}")
    return encodings[0]


def _codec(name: str) -> str | None:
    iso, windows = _ISO_8859.match(name), _WINDOWS.match(name)
    if iso:
        return f"iso-8859-{iso[1]}"
    return f"cp{windows[1]}" if windows else _CHARSETS.get(name)


def _lines(text: str, separator: str) -> Iterator[str]:
    """Yield each segment. A line that begins no segment goes on with the field before it, behind a line feed.

    HL7 ends segments by CR alone, so that a line feed may stand inside a field. A message whose header ends by LF is
    one of a sender that ends all segments so.
    """
    first = _BREAK.search(text)
    is_lf_message = first is not None and first[0] == "\n"
    line, position = "", 0
    for end in (*_BREAK.finditer(text), None):
        piece = text[position : end.start() if end else len(text)]
        before = text[position - 1] if position else "\r"
        is_cr = before == "\r" or text[max(position - 2, 0) : position] == "\r\n"
        name = piece[:3]
        begins = piece[3:4] == separator and _SEGMENT.match(name) is not None
        # Behind a lone line feed only a segment that exists begins one: a line of a report may look like any other.
        if begins and (is_cr or is_lf_message or _KNOWN.match(name)):
            if line:
                yield line
            line = piece
        else:
            line = f"{line}\n{piece}"
        position = end.end() if end else len(text)
    if line:
        yield line


def unescape(text: str, delimiters: Delimiters, encoding: str) -> str:
    r"""Return the text with its escape sequences (v2.5.1 section 2.7) resolved.

    A break (``\.br\``, in capitals too, and formatting that is not known) becomes a line feed; a change of character
    set and an escape that the sender made up (``\Zxx\``) become a blank, so that no two words are joined. A backslash
    that opens no escape is text. Control characters but tab and line ends are left out: PostgreSQL stores no NUL.
    """
    letters = {
        "F": delimiters.field,
        "S": delimiters.component,
        "T": delimiters.subcomponent,
        "R": delimiters.repetition,
        "E": delimiters.escape,
    }

    def replacement(escape: re.Match[str]) -> str:
        if escape["letter"]:
            return letters[escape["letter"]]
        if escape["hex"]:
            return bytes.fromhex(escape["hex"]).decode(encoding, "replace")
        if escape["format"]:
            return " " if escape["format"].lower() in _INDENTS else "\n"
        return " " if escape["set"] or escape["local"] else ""

    # A sender may choose another escape character (MSH-2); one pattern then does for all.
    text = text if delimiters.escape == "\\" else text.replace(delimiters.escape, "\\")
    return _CONTROL.sub("", _ESCAPE.sub(replacement, text))
