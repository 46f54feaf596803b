"""HL7 v2 result messages (ORU^R01) as received reports, and their acknowledgements. Values in, values out.

Segments as in HL7 v2.5.1 chapter 7; where the study UID stands: IHE RAD-28 (OBX), RAD-4 (ZDS, IPC).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_node.dicom.uids import is_uid
from dicom_node.errors import NodeError
from dicom_node.feedback.reports.corrections import CANCELLED
from model.labeller.word_list import word_list

# The library logs field values that it cannot unescape: patients' texts have no place in a log.
logging.getLogger("hl7").setLevel(logging.CRITICAL)

CHARSETS = {
    "ASCII": "ascii",
    "8859/1": "iso-8859-1",
    "8859/15": "iso-8859-15",
    "UTF-8": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UNICODE": "utf-8",
}
"""MSH-18 (HL7 table 0211) → Python's name."""
MAX_FIELDS = 50_000
"""The parser makes an object of each; a report has some hundred."""
FINAL, CANCELS = ("F", "C"), ("X", "D", "W")
"""HL7 tables 0123 and 0085: final and corrected; cancelled, deleted, wrong."""
_TEXTS = ("TX", "FT", "ST")
_SUFFIXES = {"IMP": "impression", "GDT": "findings", "REC": "recommendation", "ADT": "addendum"}
"""OBX-3 suffixes of HL7 v2 section 7.2.3 for parts of a narrative report."""


class Hl7Error(NodeError):
    """A message is not taken. code: "AE" (mend it, or send it again) or "AR" (never)."""

    def __init__(self, message: str, *, code: str = "AE") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What an acknowledgement needs of the message that it answers."""

    sending: tuple[str, str] = ("", "")
    receiving: tuple[str, str] = ("", "")
    control_id: str = ""
    processing_id: str = "P"
    version: str = "2.5.1"


def envelope(data: bytes) -> Envelope:
    """The header of any message, as far as it can be read."""
    fields = data[:4000].split(b"\r", 1)[0].decode("ascii", "replace").split("|")
    if len(fields) < 3 or fields[0] != "MSH":
        return Envelope()
    fields += [""] * 20
    return Envelope(
        sending=(_flat(fields[2]), _flat(fields[3])),
        receiving=(_flat(fields[4]), _flat(fields[5])),
        control_id=_flat(fields[9]),
        processing_id=_flat(fields[10])[:1] or "P",
        version=_flat(fields[11])[:8] or "2.5.1",
    )


def acknowledgement(header: Envelope, code: str, text: str, *, now: dt.datetime) -> bytes:
    """The ACK (HL7 v2.5.1 section 2.9.2): sender and receiver swapped, MSA with code, control id and reason."""
    moment = f"{now:%Y%m%d%H%M%S}"
    mine = hashlib.sha256(f"{header.control_id}{moment}{code}".encode()).hexdigest()[:20]
    msh = "|".join(
        (
            *("MSH", "^~\\&", *header.receiving, *header.sending, moment, "", "ACK^R01^ACK", mine),
            *(header.processing_id, header.version),
        )
    )
    return f"{msh}\rMSA|{code}|{header.control_id}|{_flat(text)[:80]}\r".encode("ascii", "replace")


def _flat(text: str) -> str:
    return "".join(c for c in text if c.isprintable() and c not in "|\\&~")[:180]


def reports_of(data: bytes, *, charset: str) -> list[dict[str, Any]]:
    """The column values of each report in a message (one for each OBR). Raises Hl7Error naming what is wrong."""
    import hl7

    text = _decoded(data, charset)
    try:
        message = hl7.parse(text)
        kind = [str(part) for part in message.segment("MSH")[9][0]]
        if kind[0][0:3] != "ORU" and "ORU" not in kind[0]:
            raise Hl7Error(
                f"message type {_flat(str(message.segment('MSH')[9]))} is not taken, only ORU^R01", code="AR"
            )
        return list(_reports(message, data))
    except Hl7Error:
        raise
    except (hl7.HL7Exception, LookupError, ValueError, AttributeError, TypeError) as error:
        raise Hl7Error(f"the message cannot be read: {type(error).__name__}") from error


def _decoded(data: bytes, charset: str) -> str:
    fields = data.split(b"\r", 1)[0].split(b"|")
    if len(fields) < 12 or fields[0] != b"MSH" or fields[1][:1] != b"^":
        raise Hl7Error("the message does not begin with an MSH segment of the usual delimiters |^~\\&", code="AR")
    named = fields[17].decode("ascii", "replace").split("~")[0].strip().upper() if len(fields) > 17 else ""
    if named and named not in CHARSETS:
        raise Hl7Error(f"character set {_flat(named)} is not known; known: {', '.join(CHARSETS)}")
    encoding = CHARSETS[named] if named else charset
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Hl7Error(f"byte {error.start} is not {encoding}; name the character set in MSH-18") from error
    if sum(map(text.count, "|^~&")) > MAX_FIELDS:
        raise Hl7Error(f"the message has more than {MAX_FIELDS} fields", code="AR")
    if "\x00" in text:
        raise Hl7Error("the message holds NUL characters", code="AR")
    return text.replace("\r\n", "\r").replace("\n", "\r")


def _reports(message: Any, data: bytes) -> Iterator[dict[str, Any]]:
    msh = message.segment("MSH")
    if _field(msh, 11)[:1] not in ("", "P"):
        raise Hl7Error(f"processing id {_field(msh, 11)[:1]} is for trials; P is taken", code="AR")
    pid = _first(message, "PID")
    groups = list(_groups(message))
    if pid is None or not groups:
        raise Hl7Error("a PID and an OBR segment are needed")
    digest = hashlib.sha256(data).hexdigest()
    for number, (obr, observations) in enumerate(groups):
        words = _text(message, observations)
        status = _status(obr, observations)
        reason = "" if status in FINAL else f"result status {status} is not final"
        if status in CANCELS:
            reason = f"{CANCELLED} by its sender (status {status})"
        if not words.strip() and status not in CANCELS:
            raise Hl7Error("there is no text in an OBX segment of type TX, FT or ST")
        accessions = _accessions(message, obr)
        filler = _component(obr, 3, 0) or (accessions[0] if accessions else "")
        yield {
            "source_key": f"hl7:{digest}:{number}",
            "reason": reason,
            "study_instance_uid": _study_uid(message, observations),
            "accession_numbers": accessions,
            "patient_ids": _patient_ids(pid),
            "order_key": f"{_field(msh, 4)}|{filler}"[:255] if filler else "",
            "text": words,
            "author": _author(message, obr, observations)[:255],
            "is_verified": status in FINAL,
            "written": "".join(c for c in (_field(obr, 22) or _field(msh, 7)) if c.isdigit())[:14],
            "sender": f"{_field(msh, 3)}^{_field(msh, 4)}"[:255],
        }


def _groups(message: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Each OBR with the OBX segments up to the next one."""
    current: tuple[Any, list[Any]] | None = None
    for segment in message:
        name = str(segment[0])
        if name == "OBR":
            if current is not None:
                yield current
            current = (segment, [])
        elif name == "OBX" and current is not None:
            current[1].append(segment)
    if current is not None:
        yield current


def _text(message: Any, observations: Sequence[Any]) -> str:
    """The text of the OBX segments, with a heading line where OBX-3 names another part of the report."""
    known = word_list().skipped | word_list().deciding | {"findings", "addendum"}
    lines: list[str] = []
    last = ""
    for segment in observations:
        if _field(segment, 2) not in _TEXTS or _names_study(segment):
            continue
        name = _component(segment, 3, 1).strip().lower()
        suffix = _component(segment, 3, 0).rpartition("&")[2].upper()
        heading = name if name in known else _SUFFIXES.get(suffix, "")
        if heading and heading != last:
            lines.append(f"{heading.upper()}:")
            last = heading
        raw = _field(segment, 5).replace("~", "\r")
        lines.append(str(message.unescape(raw)).replace("\r", "\n"))
    return "\n".join(lines)


def _status(obr: Any, observations: Sequence[Any]) -> str:
    """OBR-25, else the least final OBX-11; "F" where neither is sent."""
    given = _field(obr, 25)[:1].upper()
    if given:
        return given
    each = {_field(segment, 11)[:1].upper() for segment in observations} - {"", "F", "C"}
    return min(each) if each else "F"


def _study_uid(message: Any, observations: Sequence[Any]) -> str:
    zds, ipc = _first(message, "ZDS"), _first(message, "IPC")
    candidates = [_component(zds, 1, 0) if zds is not None else "", _component(ipc, 3, 0) if ipc is not None else ""]
    candidates += [_component(segment, 5, 0) for segment in observations if _names_study(segment)]
    return next((uid for uid in candidates if is_uid(uid)), "")


def _names_study(segment: Any) -> bool:
    """Whether an OBX carries the study UID (IHE RAD-28: DCM 113014, or LOINC 110180)."""
    code, name = _component(segment, 3, 0).upper(), _component(segment, 3, 1).upper()
    return code in ("113014", "110180") or "STUDY INSTANCE UID" in (code, name)


def _accessions(message: Any, obr: Any) -> list[str]:
    ipc = _first(message, "IPC")
    found = [_component(ipc, 1, 0) if ipc is not None else ""]
    found += [_component(obr, number, 0) for number in (18, 3, 2)]
    return list(dict.fromkeys(value[:64] for value in found if value))


def _patient_ids(pid: Any) -> list[list[str]]:
    """[[ID, issuer's namespace], …] of PID-3, else of PID-2."""
    found = []
    for repetition in _field(pid, 3).split("~") if _field(pid, 3) else [_field(pid, 2)]:
        parts = [*repetition.split("^"), "", "", "", ""]
        if parts[0]:
            found.append([parts[0][:64], parts[3].split("&")[0][:64]])
    return found


def _author(message: Any, obr: Any, observations: Sequence[Any]) -> str:
    """The principal result interpreter (OBR-32), else the responsible observer (OBX-16), as "Family^Given"."""
    interpreter = _field(obr, 32).split("~")[0].split("^")[0].split("&")
    if len(interpreter) > 1 and any(interpreter[1:3]):
        return str(message.unescape("^".join(part for part in interpreter[1:3] if part)))
    for segment in observations:
        parts = _field(segment, 16).split("~")[0].split("^")
        if len(parts) > 1 and any(parts[1:3]):
            return str(message.unescape("^".join(part for part in parts[1:3] if part)))
    return interpreter[0]


def _first(message: Any, name: str) -> Any | None:
    return next((segment for segment in message if str(segment[0]) == name), None)


def _field(segment: Any, number: int) -> str:
    return str(segment[number]) if len(segment) > number else ""


def _component(segment: Any, number: int, place: int) -> str:
    parts = _field(segment, number).split("~")[0].split("^")
    return parts[place].strip() if len(parts) > place else ""
