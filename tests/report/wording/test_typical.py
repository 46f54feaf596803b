"""Typical results word for word, in both languages, as they were read aloud.

After an intended change: `REGENERATE_GOLDEN=1 pytest tests/report/wording/test_typical.py`, then read them aloud again.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_node.report.render.text import as_text
from dicom_node.report.rules import EarlierStatement, Seen
from dicom_node.report.statements import statements
from dicom_node.report.wording.catalogue import languages
from dicom_node.report.wording.reasons import names_attributes
from model.schema import AbstainReason, Change, Presence
from tests.support.report_cases import finding, prediction, request
from tests.support.typical_results import not_analysed, typical

UNCHANGED = {"en": ("unchanged", "No change since"), "de": ("unverändert", "Keine Veränderung seit")}
GOLDEN = Path(__file__).parents[1] / "golden"


def _texts(language: str) -> dict[str, str]:
    return {name: as_text(replace(one, language=language)) for name, one in typical().items()}


@pytest.mark.parametrize("language", languages())
def test_typical_results_read_as_they_were_read_aloud(language: str) -> None:
    path = GOLDEN / f"typical-{language}.txt"
    text = "\n".join(f"### {name}\n{said}" for name, said in _texts(language).items())
    if os.environ.get("REGENERATE_GOLDEN"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8"), f"{path.name} differs; see the head of this file"


@pytest.mark.parametrize("language", languages())
def test_attributes_of_the_header_are_named_under_limitations_alone(language: str) -> None:
    for name, text in _texts(language).items():
        heading = {"en": "LIMITATIONS", "de": "EINSCHRÄNKUNGEN"}[language]
        assert not names_attributes(text.split(heading)[0]), name


def test_the_source_of_a_refusal_is_named_under_limitations() -> None:
    detail = "Image 2: it is not of a person: canine (AcquisitionDeviceProcessingDescription)."
    text = as_text(not_analysed(AbstainReason.NOT_CHEST, detail))
    opening, limitations = text.split("LIMITATIONS")
    assert "it is not of a person: canine." in " ".join(opening.split())
    assert "AcquisitionDeviceProcessingDescription" in limitations


@pytest.mark.parametrize("earlier", [None, Seen.SEEN, Seen.POSSIBLE, Seen.NOT_SEEN])
@pytest.mark.parametrize("probability", [0.93, 0.4, 0.04])
def test_a_change_that_is_not_stated_is_never_called_unchanged(earlier: Seen | None, probability: float) -> None:
    """Every change at every belief, in both languages: "unchanged" and "no change" are for what is stated so."""
    presence = Presence.PRESENT if probability >= 0.5 else Presence.ABSENT
    before = None if earlier is None else {"edema": EarlierStatement(seen=earlier)}
    for change, belief in itertools.product(Change, (0.2, 0.45, 0.9)):
        said = finding("edema", change, presence=presence, probability=probability, change_probability=belief)
        one = request(prediction(said), earlier=before)
        stated = next(statement for statement in statements(one) if statement.finding.key == "edema")
        is_open = stated.doubt is not None or stated.possible_change is not None or stated.seen is Seen.POSSIBLE
        for language, words in UNCHANGED.items():
            text = as_text(replace(one, language=language))
            assert (words[0] in text.lower()) is (stated.change is Change.STABLE), (change, belief)
            if is_open or stated.change is not None:
                assert words[1] not in text, (change, belief)
