"""The analysis' English sentences in a German report: none that the rules can make stands in English."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from typing import Any

import pytest
from pydicom.uid import DigitalXRayImageStorageForProcessing

from dicom_node.dicom.rejection_notes import TITLES
from dicom_node.priors import ImageFacts, PriorPolicy, choose_prior, image_check, select_current
from dicom_node.priors.disputes import DISPUTED
from dicom_node.priors.types import ImageCheck
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.reasons import in_language
from model.checks.frontal_view import ViewCheck, ViewKind
from tests.support.prior_values import image, patient

GERMAN = catalogue("de")
NOW = dt.datetime(2024, 5, 17, 8, 30)  # noqa: DTZ001 - DICOM local time
ENGLISH = re.compile(r"\b(the|is|and|of|not|agree|image|comparison|same|used|says|earlier)\b", re.IGNORECASE)
"""Words that no German sentence has."""


def before(days: float, study: str | None = None, **changes: Any) -> ImageFacts:
    return image(study or f"{days} days before", taken=NOW - dt.timedelta(days=days), **changes)


def english_left(sentence: str) -> list[str]:
    """English words, but for quotations of the header."""
    return ENGLISH.findall(re.sub(r"'[^']*'|sagt \S+", "", in_language(sentence, GERMAN)))


def checked(*, inverted: float, rotation: int) -> ImageCheck:
    """A certain finding of the pixel checks about the pose."""
    seen = ViewCheck(
        kind=ViewKind.FRONTAL_CHEST,
        probability=0.99,
        frontal_probability=0.99,
        inverted=inverted > 0.5,
        inverted_probability=inverted,
        rotation=rotation,
        rotation_probability=0.99,
    )
    return image_check(seen)


CANDIDATES = (
    before(5),
    before(5, view_position="PA"),
    before(5, patient=patient(issuer="")),
    before(5, patient=patient(issuer="CLINIC B")),
    before(5, patient=patient(birth_date="19710130")),
    before(5, patient=patient(sex="F", name="Weber^Anna")),
    before(5, patient=patient(birth_date="", name="", sex="")),
    before(2000),
    before(5, view_position="LL"),
    before(5, view_position="", body_part="CHEST"),
    before(5, body_part="KNEE"),
    before(5, body_part=""),
    before(5, sop_class_uid=DigitalXRayImageStorageForProcessing),
    before(5, has_pixels=False),
    before(0, "same time"),
    before(0.1, taken_time_known=False),
    before(5, study_date="20240601"),
    before(5, irradiation_event_uid="1.2.3"),
    image("undated", taken=None),
    before(0.2, zone=dt.timedelta(hours=1)),
    before(5, patient_orientation=("R", "F")),
    before(5, disputed=DISPUTED),
    *(before(5, withdrawn=f"it was withdrawn {why} (rejection note)") for why in TITLES.values()),
    *(
        before(5, check=checked(inverted=inverted, rotation=turn))
        for inverted, turn in ((0.99, 180), (0.99, 0), (0, 90))
    ),
)


@pytest.mark.parametrize("candidate", CANDIDATES, ids=range(len(CANDIDATES)))
def test_every_reason_for_or_against_a_prior_is_translated(candidate: ImageFacts) -> None:
    current = image(irradiation_event_uid="1.2.3")
    newer = before(3, view_position="PA")
    for others in ((candidate,), (candidate, newer)):
        for sentence in choose_prior(current, others, PriorPolicy()).reasons:
            assert not english_left(sentence), in_language(sentence, GERMAN)


@pytest.mark.parametrize(
    "changes",
    [
        {"view_position": "LL"},
        {"body_part": "KNEE"},
        {"modality": "CT"},
        {"has_pixels": False},
        {"patient_orientation": ("R", "F")},
    ],
)
def test_why_no_image_was_analysed_is_translated(changes: dict[str, object]) -> None:
    choice = select_current([replace(image(), **changes), replace(image(number=2), **changes)])  # type: ignore[arg-type]
    assert not english_left(choice.sentence), in_language(choice.sentence, GERMAN)


def test_a_sentence_with_its_date_and_its_list() -> None:
    said = (
        "Not used: image of 2024-05-15 08:30: the patient ID agrees but the sex and name differ; it bears no date, so"
        " it is not proven to be earlier."
    )
    assert in_language(said, GERMAN) == (
        "Nicht verwendet: Bild vom 15. Mai 2024, 08:30 Uhr: die Patienten-ID stimmt überein, aber nicht: Geschlecht und"
        " Name; ohne Datum, also nicht erwiesen früher."
    )


def test_what_has_no_translation_stays_and_english_is_never_touched() -> None:
    assert in_language("The archive is on fire.", GERMAN) == "The archive is on fire."
    assert in_language("Same view: PA.", catalogue("en")) == "Same view: PA."
