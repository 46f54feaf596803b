"""Answers in the DICOM JSON model (PS3.18 annex F), of which one odd element costs that element only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from dicom_node.dicom.convert import convert_values
from dicom_node.errors import UnreadableObjectError


def data_sets_of_json(answers: Any) -> Iterator[Dataset]:
    """The data sets of a JSON array; what is no object in it is passed over. Raises TypeError where it is no array."""
    if not isinstance(answers, list):
        raise TypeError("the answer is no JSON array")
    for answer in answers:
        if isinstance(answer, dict):
            try:
                yield convert_values(_data_set(answer))
            except UnreadableObjectError:
                continue


def _data_set(answer: dict[str, Any]) -> Dataset:
    data_set = Dataset()
    for tag, element in answer.items():
        for form in (element, _repair_element(tag, element)):
            try:
                # Element by element, and each value looked at: pydicom converts at the first look, and would raise for
                # them all.
                read = Dataset.from_json({tag: form})
                for item in read:
                    str(item.value)
            except Exception:  # noqa: BLE001, S112 (the edge to a stranger's JSON: an odd element is an empty one)
                continue
            data_set.update(read)
            break
    return data_set


def _repair_element(tag: str, element: Any) -> dict[str, Any]:
    """A "nearly valid" element as its writer meant it: a bare value in a list, the VR from the dictionary."""
    given = element if isinstance(element, dict) else {}
    vr = given.get("vr") or _vr_of(tag)
    value = given.get("Value")
    values = [part for part in (value if isinstance(value, list) else [value]) if part is not None]
    return {"vr": vr, "Value": [str(part) if vr not in ("SQ", "PN") else part for part in values]}


def _vr_of(tag: str) -> str:
    try:
        return dictionary_VR(int(tag, 16))
    except (KeyError, ValueError):
        return "UN"
