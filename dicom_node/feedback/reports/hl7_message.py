"""HL7 v2 result messages (ORU^R01) as received reports, and their acknowledgements. Values in, values out.

Segments as in HL7 v2.5.1 chapter 7; where the study UID stands: IHE RAD-28 (OBX), RAD-4 (ZDS, IPC).
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dicom_node.dicom.uids import is_uid
from dicom_node.feedback.reports.corrections import CANCELLED
from dicom_node.hl7.syntax import Hl7Error, Segment, header_fields, segments
from model.labeller.text.plain_text import plain_text
from model.labeller.text.word_list import word_list

__all__ = ["Envelope", "Hl7Error", "NoReportError", "acknowledgement", "envelope", "reports_of"]

FINAL = ("F", "C", "U")  # HL7 tables 0123 and 0085: final, corrected, changed to final
CANCELS = ("X", "D", "W")  # cancelled, deleted, wrong
_NO_RESULT = ("O", "N")  # table 0085: describes only the order; not asked for
_TEXTS = ("TX", "FT", "ST")
_SUFFIXES = {"IMP": "impression", "GDT": "findings", "REC": "recommendation", "ADT": "addendum"}
"""OBX-3 suffixes of HL7 v2 section 7.2.3 for parts of a narrative report."""


class NoReportError(Hl7Error):
    """A well-formed result message that holds no report's text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The fields of a message that its acknowledgement needs."""

    sending: tuple[str, str] = ("", "")
    receiving: tuple[str, str] = ("", "")
    control_id: str = ""
    processing_id: str = "P"
    version: str = "2.5.1"
    trigger: str = "R01"
    """The event of the message (MSH-9.2), which its acknowledgement names too."""


def envelope(data: bytes) -> Envelope:
    """The header of any message, as far as it can be read."""
    fields = header_fields(data)
    if not fields:
        return Envelope()
    fields += [""] * 20
    return Envelope(
        sending=(_flat(fields[3]), _flat(fields[4])),
        receiving=(_flat(fields[5]), _flat(fields[6])),
        control_id=_flat(fields[10]),
        processing_id=_flat(fields[11])[:1] or "P",
        version=_flat(fields[12])[:8] or "2.5.1",
        trigger=_trigger(fields[9]),
    )


def acknowledgement(header: Envelope, code: str, text: str, *, now: dt.datetime) -> bytes:
    """The ACK (HL7 v2.5.1 section 2.9.2): sender and receiver swapped, MSA with code, control id and reason."""
    moment = f"{now:%Y%m%d%H%M%S}"
    own_id = hashlib.sha256(f"{header.control_id}{moment}{code}".encode()).hexdigest()[:20]
    fields = ("MSH", "^~\\&", *header.receiving, *header.sending, moment, "", f"ACK^{header.trigger}^ACK", own_id)
    msh = "|".join((*fields, header.processing_id, header.version))
    return f"{msh}\rMSA|{code}|{header.control_id}|{_flat(text)[:80]}\r".encode("ascii", "replace")


def _trigger(kind: str) -> str:
    match = re.match(r"[A-Z]{3}\W([A-Z]\d\d)\b", kind)
    return match[1] if match else "R01"


def _flat(text: str) -> str:
    return "".join(c for c in text if c.isprintable() and c not in "|\\&~")[:180]


def reports_of(
    data: bytes, *, charset: str, is_result: Callable[[Segment], bool] = lambda _segment: False
) -> list[dict[str, Any]]:
    """Return the column values of each report in a message (one for each OBR). Raises Hl7Error naming what is wrong.

    charset: how a message is written whose MSH-18 is empty. is_result: of an OBX that is a laboratory's: a text beside
    it under the same OBR is a remark on it and no report.
    """
    parsed = segments(data, charset=charset)
    msh = parsed[0]
    kind = msh.raw(9)
    if not re.match(r"ORU\b", kind):
        shown = f" {kind}" if re.fullmatch(r"[A-Z]{3}(\W[A-Z0-9]{3}){0,1}(\W[A-Z0-9_]{3,7})?", kind) else ""
        raise Hl7Error(f"message type{shown} of MSH-9 is not taken, only ORU^R01", code="AR")
    refuse_unfit(parsed)
    groups = list(_groups(parsed))
    if not groups:
        raise Hl7Error("a PID and an OBR segment are needed; segments end by CR")
    groups = [group for group in groups if not any(map(is_result, group.observations))]
    digest = hashlib.sha256(data).hexdigest()
    reports = [_report(msh, group, f"hl7:{digest}:{number}") for number, group in enumerate(groups)]
    with_words = [report for report in reports if report["text"].strip() or report["reason"].startswith(CANCELLED)]
    if not with_words:
        raise NoReportError("there is no text in an OBX segment of type TX, FT, ST or ED")
    return with_words  # of several orders that share one report, the one that holds it


def refuse_unfit(found: Sequence[Segment]) -> None:
    """Raise Hl7Error for a message of a trial, and for two in one frame."""
    processing = found[0].raw(11)[:1]
    if processing not in ("", "P"):
        raise Hl7Error(f"processing id {processing} is for trials; P is taken", code="AR")
    if sum(segment.name == "MSH" for segment in found) > 1:
        raise Hl7Error("two messages stand in one frame; send each in a frame of its own")


@dataclass(slots=True, kw_only=True)
class _Group:
    """An OBR with the OBX segments up to the next one, its patient, and where a study may be named."""

    pid: Segment
    obr: Segment
    observations: list[Segment] = field(default_factory=list)
    studies: list[Segment] = field(default_factory=list)


def _groups(found: Sequence[Segment]) -> Iterator[_Group]:
    """Yield each OBR of a patient; a message may tell of several patients (PATIENT_RESULT repeats)."""
    pid: Segment | None = None
    groups: list[_Group] = []
    of_patient: list[Segment] = []
    # None stands for the end, which closes the last patient's groups.
    for segment in (*found, None):
        if segment is None or segment.name == "PID":
            for group in groups:
                group.studies += of_patient
                yield group
            pid, groups, of_patient = segment, [], []
        elif segment.name == "OBR" and pid is not None:
            groups.append(_Group(pid=pid, obr=segment))
        elif segment.name == "OBX" and groups:
            groups[-1].observations.append(segment)
        elif segment.name in ("ZDS", "IPC"):
            # Some senders write the study behind each order, some once for all of a patient's: an order's own comes
            # first.
            of_patient.append(segment)
            if groups:
                groups[-1].studies.append(segment)


def _report(msh: Segment, group: _Group, source_key: str) -> dict[str, Any]:
    texts = [
        observation for observation in group.observations if _holds_text(observation) and not _names_study(observation)
    ]
    obr, status = group.obr, _status(group.obr, texts)
    reason = "" if status in FINAL else f"result status {status} is not final"
    if status in CANCELS:
        reason = f"{CANCELLED} by its sender (status {status})"
    else:
        texts = [
            observation for observation in texts if _observation_status(observation) not in (*CANCELS, *_NO_RESULT)
        ]
    accessions = _accessions(group)
    # OBR-3, the filler order number, names a report over all of its corrections.
    filler = obr.component(3, 0) or (accessions[0] if accessions else "")
    return {
        "source_key": source_key,
        "reason": reason,
        "study_instance_uid": _study_uid(group),
        "accession_numbers": accessions,
        "patient_ids": _patient_ids(group.pid),
        "order_key": f"{msh.raw(4)}|{filler}"[:255] if filler else "",
        "text": _text(texts),
        "author": _author(group)[:255],
        "is_verified": status in FINAL,
        # OBR-22, when results were reported or changed; else the time of the message (MSH-7).
        "written": "".join(c for c in (obr.raw(22) or msh.raw(7)) if c in "0123456789")[:14],
        "sender": f"{msh.raw(3)}^{msh.raw(4)}"[:255],
    }


def _text(texts: Sequence[Segment]) -> str:
    """Return the text of the OBX segments, with a heading line where OBX-3 names another part of the report."""
    known = word_list().skipped | word_list().deciding | {"findings", "addendum"}
    lines: list[str] = []
    last = ""
    for segment in texts:
        name = segment.component(3, 1).lower()
        suffix = segment.raw(3).split(segment.delimiters.component)[0].rpartition("&")[2].upper()
        heading = name if name in known else _SUFFIXES.get(suffix, "")
        # Once for each part: it often has many OBX, one a line.
        if heading and heading != last:
            lines.append(f"{heading.upper()}:")
            last = heading
        lines.append(_value(segment))
    return "\n".join(lines)


def _value(segment: Segment) -> str:
    """Return OBX-5 as plain lines. RTF that was not escaped holds backslashes and braces that are no delimiters."""
    raw = segment.raw(5)
    if segment.raw(2) == "ED":
        return plain_text(_read_encapsulated(segment))
    if "{\\rtf" not in raw:
        raw = segment.decode(raw.replace(segment.delimiters.repetition, "\n"))
    return plain_text(raw)


def _read_encapsulated(segment: Segment) -> str:
    """Return the text of an ED value (v2.5.1 section 2.A.24): source, type, subtype, encoding, data."""
    # Four cuts at most: the data behind them may hold the separator.
    parts = [*segment.raw(5).split(segment.delimiters.component, 4), "", "", "", ""]
    kind, how, data = f"{parts[1]} {parts[2]}".upper(), parts[3].upper(), parts[4]
    if not any(word in kind for word in ("TEXT", "RTF", "HTML", "PLAIN")) or "PDF" in kind:
        return ""
    try:
        if how == "BASE64":
            return base64.b64decode("".join(data.split())).decode(segment.encoding, "replace")
        if how == "HEX":
            return bytes.fromhex(data).decode(segment.encoding, "replace")
    except (binascii.Error, ValueError):
        return ""
    return segment.decode(data)


def _holds_text(segment: Segment) -> bool:
    return segment.raw(2) in _TEXTS or (segment.raw(2) == "ED" and bool(_read_encapsulated(segment).strip()))


def _observation_status(segment: Segment) -> str:
    """OBX-11."""
    return segment.raw(11)[:1].upper()


def _status(obr: Segment, texts: Sequence[Segment]) -> str:
    """Return OBR-25, but where it says final and an OBX-11 does not, that OBX-11; "F" where neither is sent.

    Parts that were deleted or are no results leave the rest as it is; where all were, the report is cancelled.
    """
    given = obr.raw(25)[:1].upper()
    if given and given not in FINAL:
        return given
    each = [_observation_status(segment) for segment in texts]
    # All parts deleted: the report is, whatever OBR-25 says of the order.
    if each and all(status in CANCELS for status in each):
        return each[0]
    open_ones = sorted({status for status in each if status not in ("", *FINAL, *CANCELS, *_NO_RESULT)})
    return open_ones[0] if open_ones else given or "F"


def _study_uid(group: _Group) -> str:
    candidates = [segment.component(1, 0) for segment in group.studies if segment.name == "ZDS"]
    candidates += [segment.component(3, 0) for segment in group.studies if segment.name == "IPC"]
    candidates += [segment.component(5, 0) for segment in group.observations if _names_study(segment)]
    return next((uid for uid in candidates if is_uid(uid)), "")


def _names_study(segment: Segment) -> bool:
    """Return whether an OBX carries the study UID (IHE RAD-28: DCM 113014, or LOINC 110180)."""
    code, name = segment.component(3, 0).upper(), segment.component(3, 1).upper()
    return code in ("113014", "110180") or "STUDY INSTANCE UID" in (code, name)


def _accessions(group: _Group) -> list[str]:
    numbers = [segment.component(1, 0) for segment in group.studies if segment.name == "IPC"][:1]
    # OBR-18 holds the accession number in IHE's profiles; elsewhere the filler's or the placer's order number serves as
    # one.
    numbers += [group.obr.component(number, 0) for number in (18, 3, 2)]
    return list(dict.fromkeys(value[:64] for value in numbers if value))


def _patient_ids(pid: Segment) -> list[list[str]]:
    """Return [[ID, issuer's namespace], …] of PID-3, else of PID-2."""
    ids = []
    for components in pid.repetitions(3) if pid.raw(3) else pid.repetitions(2)[:1]:
        parts = [*components, "", "", "", ""]
        if parts[0]:
            # CX-4, the assigning authority, is itself of parts, of which the first is its namespace.
            ids.append([parts[0][:64], parts[3].split(pid.delimiters.subcomponent)[0][:64]])
    return ids


def _author(group: _Group) -> str:
    """Return the principal result interpreter (OBR-32), else the responsible observer (OBX-16), as "Family^Given"."""
    obr = group.obr
    # OBR-32 is an NDL: its first component is the whole name, whose parts (id, family, given) are subcomponents.
    person = obr.raw(32).split(obr.delimiters.repetition)[0].split(obr.delimiters.component)[0]
    interpreter = [obr.decode(part).strip() for part in person.split(obr.delimiters.subcomponent)]
    if any(interpreter[1:3]):
        return "^".join(part for part in interpreter[1:3] if part)
    for segment in group.observations:
        parts = segment.repetitions(16)[0]
        if any(parts[1:3]):
            return "^".join(part for part in parts[1:3] if part)
    return interpreter[0]
