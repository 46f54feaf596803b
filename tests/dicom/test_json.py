"""Answers in the DICOM JSON model of which one element is odd: that element is lost or read, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dicom_node.dicom.json import data_sets_of_json

STUDY: dict[str, Any] = {
    "0020000D": {"vr": "UI", "Value": ["1.2.3"]},
    "00100020": {"vr": "LO", "Value": ["P1"]},
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
    "00100030": {"vr": "DA", "Value": ["19700101"]},
    "00201208": {"vr": "IS", "Value": [2]},
}

ODD = {
    "a name as a string": ({"00100010": {"vr": "PN", "Value": ["Doe^Jane"]}}, "PatientName", "Doe^Jane"),
    "a value outside of its list": ({"00100030": {"vr": "DA", "Value": "19700102"}}, "PatientBirthDate", "19700102"),
    "null": ({"00100030": {"vr": "DA", "Value": None}}, "PatientBirthDate", ""),
    "a list of null": ({"00100030": {"vr": "DA", "Value": [None]}}, "PatientBirthDate", ""),
    "no vr": ({"00100030": {"Value": ["19700103"]}}, "PatientBirthDate", "19700103"),
    "an empty vr": ({"00100030": {"vr": "", "Value": ["19700103"]}}, "PatientBirthDate", "19700103"),
    "a number as a string": ({"00201208": {"vr": "IS", "Value": ["3"]}}, "NumberOfStudyRelatedInstances", "3"),
    "a number that is none": ({"00201208": {"vr": "IS", "Value": ["N/A"]}}, "NumberOfStudyRelatedInstances", ""),
    "a decimal comma": ({"00101020": {"vr": "DS", "Value": ["1,8"]}}, "PatientSize", ""),
    "a key that is no tag": ({"StudyUID": {"vr": "LO", "Value": ["x"]}}, "PatientID", "P1"),
    "a vr that does not exist": ({"00091001": {"vr": "??", "Value": ["x"]}}, "PatientID", "P1"),
    "an element that is no object": ({"00100030": "19700101"}, "PatientID", "P1"),
}


@pytest.mark.parametrize(("change", "keyword", "value"), ODD.values(), ids=ODD)
def test_odd_element_costs_itself_only(change: dict[str, Any], keyword: str, value: str) -> None:
    other = copy.deepcopy(STUDY) | {"0020000D": {"vr": "UI", "Value": ["1.2.4"]}}
    first, second = data_sets_of_json([other, STUDY | change])
    assert first.StudyInstanceUID == "1.2.4"
    assert second.StudyInstanceUID == "1.2.3"
    assert second.PatientID == "P1"
    found = second.get(keyword)
    assert ("" if found is None else str(found)) == value


def test_answer_that_is_no_object_is_passed_over() -> None:
    assert [one.PatientID for one in data_sets_of_json(["x", STUDY, None, 3])] == ["P1"]
    with pytest.raises(TypeError):
        list(data_sets_of_json("text"))
