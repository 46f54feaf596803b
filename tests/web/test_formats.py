"""Numbers and words on the pages: rule 2 of the reports, and corrections that fit their finding."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.admin.degrees import degree_word
from dicom_node.admin.formats import change_percent, change_word, presence_percent, presence_word
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.phrases import phrase
from dicom_node.web.pages.corrections import fitting_words
from model.schema import Finding, Presence


def test_words_of_a_correction_fit_the_finding_and_are_sorted() -> None:
    effusion = fitting_words({"key": "pleural_effusion", "change": "new"})
    assert list(effusion) == ["presence", "change", "location", "level"]
    assert effusion["location"] == sorted(effusion["location"])
    assert not {"rib", "retrocardiac"} & set(effusion["location"])
    assert {"severe", "small"} <= set(effusion["level"])
    assert not {"increasing", "mildly"} & set(effusion["level"])
    assert "level" not in fitting_words({"key": "chest_tube", "change": None})
    assert fitting_words({"key": "chest_tube"})["location"] == ["bilateral", "left", "right"]
    assert list(fitting_words({"key": "cardiomegaly"})) == ["presence", "level"]


@pytest.mark.parametrize(
    ("key", "level", "word"),
    [
        ("pneumothorax", "severe", "large"),
        ("pleural_effusion", "mild to moderate", "small to moderate"),
        ("pleural_effusion", "mildly", "mildly"),
        ("edema", "severe", "severe"),
        ("edema", None, ""),
    ],
)
def test_degree_is_worded_as_in_the_report(key: str, level: str | None, word: str) -> None:
    assert degree_word({"key": key, "level": level}) == word
    if level:
        finding = Finding(key=key, presence=Presence.PRESENT, probability=0.9, level=level)
        assert phrase(finding, catalogue("en")).startswith(f"{word} ")


@pytest.mark.parametrize(
    ("finding", "presence", "change"),
    [
        ({"seen": "seen", "probability": 0.93, "change": "new", "change_probability": 0.8}, "93 %", "80 %"),
        ({"seen": "possible", "probability": 0.38}, "38 %", ""),
        ({"seen": "possible", "probability": 0.56}, "", ""),
        ({"seen": "not seen", "probability": 0.56}, "", ""),
        ({"seen": "no statement", "probability": 0.5}, "", ""),
        ({"seen": "seen", "probability": 0.9, "change": "not comparable", "change_probability": 0.41}, "90 %", ""),
        ({"seen": "seen", "probability": 0.9, "change": "new", "change_probability": 0.9, "calibrated": False}, "", ""),
        ({"probability": 0.2}, "20 %", ""),
    ],
)
def test_percentage_beside_a_finding(finding: dict[str, Any], presence: str, change: str) -> None:
    assert (presence_percent(finding), change_percent(finding)) == (presence, change)


@pytest.mark.parametrize(
    ("finding", "presence", "change"),
    [
        ({"seen": "seen", "change": "worsening", "doubt": None}, "seen", "larger or worse"),
        ({"seen": "seen", "change": "not comparable", "doubt": "low certainty"}, "seen", "change uncertain"),
        ({"seen": "seen", "change": "not comparable", "doubt": "different projections"}, "seen", "not comparable"),
        ({"seen": "no statement", "change": None}, "neither seen nor excluded", ""),
        ({"seen": "no statement", "change": None, "judged": False}, "not judged", ""),
        ({"presence": "absent", "change": "resolved"}, "not seen", "no longer seen"),  # kept before `seen` was written
    ],
)
def test_the_pages_use_the_words_of_the_report(finding: dict[str, Any], presence: str, change: str) -> None:
    assert (presence_word(finding), change_word(finding)) == (presence, change)
