"""Any SR, ours or another's, as a tree of lines or as a page: what `dicom-node report show` prints."""

from __future__ import annotations

import html
from collections.abc import Iterator

from pydicom import Dataset

from dicom_node.errors import UsageError
from dicom_node.report.patient import items_of, text_of

_RELATIONSHIPS = {
    "CONTAINS": "",
    "HAS OBS CONTEXT": "observed: ",
    "HAS ACQ CONTEXT": "acquired: ",
    "HAS CONCEPT MOD": "with ",
    "HAS PROPERTIES": "has ",
    "INFERRED FROM": "inferred from ",
    "SELECTED FROM": "selected from ",
}
_HEADER = (
    "PatientName",
    "PatientID",
    "StudyDate",
    "AccessionNumber",
    "SeriesDescription",
    "ContentDate",
    "ContentTime",
    "CompletionFlag",
    "VerificationFlag",
    "PreliminaryFlag",
)
MAX_ITEMS = 100_000
MAX_DEPTH = 64
"""Deeper trees are cut with a line that says so."""


def tree_lines(dataset: Dataset) -> list[str]:
    """The header and the content tree, one line each, indented by two spaces for each level.

    Raises UsageError where the object is no SR.
    """
    if "ConceptNameCodeSequence" not in dataset or "ValueType" not in dataset:
        raise UsageError("this object is no Structured Report: it has no content tree")
    lines = [f"{keyword}: {text_of(dataset, keyword, 200)}" for keyword in _HEADER if text_of(dataset, keyword, 200)]
    return [*lines, "", *("  " * depth + line for depth, line in _walk(dataset, 0))]


def tree_page(dataset: Dataset) -> str:
    """The same as a page without scripts; every value is escaped."""
    lines = tree_lines(dataset)
    split = lines.index("")
    title = html.escape(_name(dataset) or "Structured Report")
    facts = "".join(f"<li>{html.escape(line)}</li>" for line in lines[:split])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;"
        "margin:0 auto;padding:1.5rem}ul{padding-left:1.3rem}</style></head>\n"
        f"<body><h1>{title}</h1><ul>{facts}</ul>{_list([dataset], 0)}</body></html>\n"
    )


def _walk(item: Dataset, depth: int) -> Iterator[tuple[int, str]]:
    yield depth, _line(item)
    if depth >= MAX_DEPTH:
        yield depth + 1, "… deeper levels are not shown"
        return
    for child in _children(item):
        yield from _walk(child, depth + 1)


def _list(items: list[Dataset], depth: int) -> str:
    if not items:
        return ""
    # Objects of others may nest without end.
    if depth > MAX_DEPTH:
        return "<ul><li>… deeper levels are not shown</li></ul>"
    entries = "".join(f"<li>{html.escape(_line(item))}{_list(_children(item), depth + 1)}</li>" for item in items)
    return f"<ul>{entries}</ul>"


def _children(item: Dataset) -> list[Dataset]:
    return items_of(item, "ContentSequence", MAX_ITEMS)


def _line(item: Dataset) -> str:
    relationship = text_of(item, "RelationshipType")
    lead = _RELATIONSHIPS.get(relationship, f"{relationship.lower()} " if relationship else "")
    name, value = _name(item), _value(item)
    if name and value:
        return f"{lead}{name}: {value}"
    return lead + (name or value or text_of(item, "ValueType") or "?")


def _name(item: Dataset) -> str:
    return _meaning(item, "ConceptNameCodeSequence")


def _meaning(item: Dataset, keyword: str) -> str:
    """ "Present", or "(52101004, SCT)" where the meaning is missing."""
    for code in items_of(item, keyword):
        value = (
            text_of(code, "CodeValue") or text_of(code, "LongCodeValue", 1024) or text_of(code, "URNCodeValue", 1024)
        )
        return text_of(code, "CodeMeaning", 200) or f"({value}, {text_of(code, 'CodingSchemeDesignator')})"
    return ""


def _value(item: Dataset) -> str:
    kind = text_of(item, "ValueType")
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        return _number(item)
    if kind in {"IMAGE", "COMPOSITE", "WAVEFORM"}:
        return ", ".join(_references(item))
    if kind in {"SCOORD", "SCOORD3D", "TCOORD"}:
        return text_of(item, "GraphicType") or text_of(item, "TemporalRangeType")
    keyword = {
        "TEXT": "TextValue",
        "DATE": "Date",
        "TIME": "Time",
        "DATETIME": "DateTime",
        "UIDREF": "UID",
        "PNAME": "PersonName",
    }.get(kind)
    return text_of(item, keyword, 100_000) if keyword else ""


def _number(item: Dataset) -> str:
    measured = items_of(item, "MeasuredValueSequence")
    if not measured:
        return _meaning(item, "NumericValueQualifierCodeSequence") or "no value"
    units = items_of(measured[0], "MeasurementUnitsCodeSequence")
    # "1" is UCUM for "no unit".
    unit = text_of(units[0], "CodeValue") if units else ""
    return f"{text_of(measured[0], 'NumericValue')} {'' if unit in {'1', '{0}'} else unit}".strip()


def _references(item: Dataset) -> list[str]:
    return [text_of(reference, "ReferencedSOPInstanceUID") for reference in items_of(item, "ReferencedSOPSequence")]
