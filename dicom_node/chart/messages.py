"""HL7 v2 messages as entries of the chart: numeric results (ORU^R01) and orders (ORM, OMP, RDE). Values in, values out.

Segments and fields by HL7 v2.5.1 chapters 4 and 7. A code, unit, time or number that is not understood is named, not
guessed: the entry is left out and counted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from dicom_node.chart.vocabulary import ChartVocabulary, CodedName
from dicom_node.hl7.syntax import Hl7Error, Segment
from dicom_node.hl7.times import ClockTime, clock_time
from dicom_node.index.tables.chart import ChartKind

NUMERIC = ("NM", "SN")
ORDERS = re.compile(r"(ORM|OMP|RDE)\b")
_FINAL, _WITHDRAWN = frozenset("FCU"), frozenset("DWX")
"""HL7 table 0085: final, corrected, changed to final; deleted, wrong, cannot be obtained."""
_BEGINS = frozenset({"NW", "XO", "XX", "RF", "RE", "SC", "SN", "RL", "OK"})
_ENDS = frozenset({"CA", "DC", "OC", "OD", "CR", "DR", "HD", "OH"})
"""HL7 table 0119: cancelled, discontinued, held, by whichever side."""
_FLAGS = frozenset({"N", "L", "LL", "H", "HH"})
_COMPARATORS = frozenset({"", "=", "<", ">", "<=", ">="})
_NUMBER = re.compile(r"(?P<comparator>[<>]=?)? ?(?P<number>[+-]?\d{1,12}(?:\.\d{1,12})?)")
"""With a point: 1,234 may be one and a bit or a thousand. Many laboratories send "<5" as a plain number (NM, ST)."""
_ID_TYPES = ("MR", "PI")
"""HL7 table 0203, the best first: the numbers under which a hospital files its images."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9./*%_^{}\[\]-]{0,31}")
"""The form of a code or unit that may be kept and listed: no free text, in which a name may stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartItem:
    """One result or order of a message. key: names it at its sender over all messages on it."""

    key: str
    kind: ChartKind
    patient: tuple[str, str]
    """(patient ID, issuer)."""
    name: str = ""
    value: float | None = None
    comparator: str = ""
    flag: str = ""
    begins: ClockTime | None = None
    known: ClockTime | None = None
    ends: ClockTime | None = None
    is_withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownPart:
    """A part that was not understood. kind: "lab", "unit", "treatment", "time", "value", "patient" or "order"."""

    kind: str
    code: str = ""
    system: str = ""


@dataclass(slots=True, kw_only=True)
class ChartMessage:
    """The part of a message that is for the chart. at: when it was sent (MSH-7)."""

    sender: str
    at: ClockTime
    items: list[ChartItem] = field(default_factory=list)
    unknown: list[UnknownPart] = field(default_factory=list)

    def clock(self, segment: Segment, number: int, component: int = 0) -> ClockTime | None:
        """A field's time; its zone is that of MSH-7 where it names none (v2.5.1 section 2.14.9.7)."""
        time = clock_time(segment.component(number, component))
        return time if time is None or time.zone is not None else replace(time, zone=self.at.zone)


def sender_of(msh: Segment) -> str:
    """MSH-3^MSH-4, the first component of each."""
    return f"{msh.component(3, 0)}^{msh.component(4, 0)}"


def is_for_chart(found: Sequence[Segment], vocabulary: ChartVocabulary) -> bool:
    """Tell whether a message holds results for the chart or is an order."""
    if ORDERS.match(found[0].raw(9)):
        return True
    return any(is_result(segment, vocabulary) for segment in found)


def is_result(segment: Segment, vocabulary: ChartVocabulary) -> bool:
    """Tell whether a segment is a result: a number by its type, or a string under the code of a laboratory value."""
    if segment.name != "OBX":
        return False
    kind = segment.raw(2)
    return kind in NUMERIC or (kind == "ST" and vocabulary.lab(_codes(segment, 3)) is not None)


def chart_message(found: Sequence[Segment], vocabulary: ChartVocabulary) -> ChartMessage:
    """Read a message for the chart. Raises Hl7Error where it has no time (MSH-7) or no patient (PID-3)."""
    msh = found[0]
    at = clock_time(msh.component(7, 0))
    if at is None:
        raise Hl7Error("MSH-7, the time of the message, is missing or no time stamp")
    if not any(segment.name == "PID" for segment in found):
        raise Hl7Error("a PID segment is needed; segments end by CR")
    message = ChartMessage(sender=sender_of(msh), at=at)
    read = _orders if ORDERS.match(msh.raw(9)) else _results
    for item in read(found, message, vocabulary):
        message.items.append(item)
    return message


def _results(found: Sequence[Segment], message: ChartMessage, vocabulary: ChartVocabulary) -> Iterator[ChartItem]:
    pid: Segment | None = None
    obr: Segment | None = None
    for segment in found:
        # One message may hold several patients and orders: each OBX belongs to the OBR and PID last seen before it (HL7
        # v2, ORU).
        if segment.name == "PID":
            pid, obr = segment, None
        elif segment.name == "OBR":
            obr = segment
        elif pid is not None and is_result(segment, vocabulary):
            item = _result(pid, obr, segment, message, vocabulary)
            if item is not None:
                yield item


def _result(
    pid: Segment, obr: Segment | None, obx: Segment, message: ChartMessage, vocabulary: ChartVocabulary
) -> ChartItem | None:
    status = obx.raw(11)[:1].upper() or (obr.raw(25)[:1].upper() if obr is not None else "")
    patient, codes = _patient(pid), _codes(obx, 3)
    if status not in _FINAL | _WITHDRAWN:
        return None  # preliminary, or no result at all: not the laboratory's word
    lab = vocabulary.lab(codes)
    begins = message.clock(obx, 14) or (message.clock(obr, 7) if obr is not None else None)
    if patient is None or lab is None or begins is None:
        faults = [UnknownPart(kind="patient")] if patient is None else []
        faults += [_unknown("lab", codes)] if lab is None else []
        message.unknown += faults or [_unknown("time", codes)]
        return None
    order = "|".join((obr.component(3, 0), obr.component(2, 0))) if obr is not None else ""
    key = _key(ChartKind.LAB, message.sender, *patient, order, codes[0].value, obx.raw(4), begins.text)
    if status in _WITHDRAWN:
        return ChartItem(key=key, kind=ChartKind.LAB, patient=patient, name=lab.name, is_withdrawn=True)
    comparator, number = _number(obx)
    units = _codes(obx, 6)
    factor = next(
        (factor_of_unit for unit in units if (factor_of_unit := vocabulary.factor(lab, unit.value)) is not None), None
    )
    if number is None or factor is None:
        unit = [CodedName(value=units[0].value)] if units else []
        message.unknown.append(_unknown("value", codes) if number is None else _unknown("unit", unit))
        return None
    known = _report_time(obr, status, message)
    return ChartItem(
        key=key,
        kind=ChartKind.LAB,
        patient=patient,
        name=lab.name,
        value=number * factor,
        comparator=comparator,
        flag=next((flag for flag in (part[0] for part in obx.repetitions(8)) if flag in _FLAGS), ""),
        begins=begins,
        known=begins if begins.is_after(known) else known,
    )


def _report_time(obr: Segment | None, status: str, message: ChartMessage) -> ClockTime:
    reported = message.clock(obr, 22) if obr is not None else None
    known = reported or message.at
    # Some senders correct a value and leave the first report's time.
    return message.at if status != "F" and message.at.is_after(known) else known


def _orders(found: Sequence[Segment], message: ChartMessage, vocabulary: ChartVocabulary) -> Iterator[ChartItem]:
    """One item for each ORC with the segments up to the next one."""
    pid: Segment | None = None
    group: list[Segment] = []
    # None stands for the end, which closes the last order.
    for segment in (*found, None):
        if (segment is None or segment.name in ("PID", "ORC")) and group and pid is not None:
            item = _order(pid, group, message, vocabulary)
            if item is not None:
                yield item
            group = []
        if segment is not None and segment.name == "PID":
            pid = segment
        elif segment is not None and (segment.name == "ORC" or group):
            group.append(segment)


def _order(
    pid: Segment, group: Sequence[Segment], message: ChartMessage, vocabulary: ChartVocabulary
) -> ChartItem | None:
    orc, patient = group[0], _patient(pid)
    control, number = orc.raw(1).upper(), orc.component(2, 0) or orc.component(3, 0)
    if patient is None or not number or control not in _BEGINS | _ENDS:
        message.unknown.append(UnknownPart(kind="patient" if patient is None else "order", code=_plain(control)))
        return None
    coded = next((segment for segment in group if segment.name in ("RXE", "RXO", "OBR")), None)
    codes = _codes(coded, {"RXE": 2, "RXO": 1, "OBR": 4}[coded.name]) if coded is not None else []
    name = vocabulary.treatment(codes) or ""
    if not name and (codes or control in _BEGINS):
        message.unknown.append(_unknown("treatment", codes))
        return None
    key = _key(ChartKind.TREATMENT, message.sender, *patient, number)
    placed = message.clock(orc, 9) or message.at
    if control in _ENDS:  # ORC-15: from when it is so
        ends = message.clock(orc, 15) or placed
        return ChartItem(key=key, kind=ChartKind.TREATMENT, patient=patient, name=name, ends=ends)
    timing = next((segment for segment in group if segment.name == "TQ1"), None)
    begins = _order_time(message, timing, 7, orc, 3) or placed
    return ChartItem(
        key=key,
        kind=ChartKind.TREATMENT,
        patient=patient,
        name=name,
        begins=begins,
        known=placed,
        ends=_order_time(message, timing, 8, orc, 4),
    )


def _order_time(
    message: ChartMessage, timing: Segment | None, field_number: int, orc: Segment, component: int
) -> ClockTime | None:
    """TQ1-7 or TQ1-8, else the older ORC-7.4 or ORC-7.5."""
    stated = message.clock(timing, field_number) if timing is not None else None
    return stated or message.clock(orc, 7, component)


def _number(obx: Segment) -> tuple[str, float | None]:
    """(comparator, number) of OBX-5; None where it is no finite number, a range, a ratio, or several values."""
    values = obx.repetitions(5)
    # SN is comparator ^ number ^ separator ^ number (HL7 v2.5.1, chapter 2A): the last two make it a range or a ratio.
    parts = [part.strip() for part in values[0]] + ["", "", "", ""]
    if len(values) > 1 or (obx.raw(2) == "SN" and (any(parts[2:4]) or parts[0] not in _COMPARATORS)):
        return "", None
    text = "".join(parts[:2]).removeprefix("=") if obx.raw(2) == "SN" else parts[0]
    stated = _NUMBER.fullmatch(text)
    if stated is None:
        return "", None
    return stated["comparator"] or "", float(stated["number"])


def _patient(pid: Segment) -> tuple[str, str] | None:
    """The ID of PID-3 that images are filed under, by its type, else the first, with its authority's namespace."""
    named = [parts for components in pid.repetitions(3) if (parts := [*components, "", "", "", "", ""])[0]]
    if not named:
        return None
    # PID-3 holds several identifiers; PID-3.5 says of what kind each is (HL7 table 0203: MR, PI, …).
    best = next((parts for kind in _ID_TYPES for parts in named if parts[4] == kind), named[0])
    return best[0][:64], best[3].split(pid.delimiters.subcomponent)[0][:64]


def _codes(segment: Segment, number: int) -> list[CodedName]:
    """The coded value and its alternate (components 1 and 3, 4 and 6 of a CE or CWE)."""
    parts = [*segment.repetitions(number)[0], "", "", "", "", "", ""]
    pairs = ((parts[0], parts[2]), (parts[3], parts[5]))
    return [CodedName(value=value[:64], system=system[:64]) for value, system in pairs if value]


def _unknown(kind: str, codes: Sequence[CodedName]) -> UnknownPart:
    if not codes:
        return UnknownPart(kind=kind)
    return UnknownPart(kind=kind, code=_plain(codes[0].value), system=_plain(codes[0].system))


def _plain(text: str) -> str:
    return text if not text or _PLAIN.fullmatch(text) else "(not a plain code)"


def _key(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
