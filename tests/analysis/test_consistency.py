"""The story of a study asks what was said of the prior, and tells what the choice of the prior leaves open."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import pytest

from dicom_node.analysis.cautions import identity_cautions, newer_image_note
from dicom_node.priors import choose_prior
from dicom_node.report.render.text import as_text
from dicom_node.report.result import result_json
from dicom_node.report.rules import EarlierStatement, Seen
from dicom_node.report.stored import earlier_statements
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.reasons import in_language
from model.schema import Change, Presence
from tests.support.prior_values import image, patient
from tests.support.report_cases import finding, kinds, prediction, request

NOW = dt.datetime(2024, 5, 17, 8, 30)  # noqa: DTZ001 - DICOM local time


def test_a_stored_result_is_the_earlier_reading_of_the_next() -> None:
    """Findings reported as seen, possible and not seen are read back as such from result.json."""
    said = prediction(
        finding("pleural_effusion", Change.NEW, location="left"),
        finding("edema", presence=Presence.ABSENT, probability=0.4),
    )
    earlier = earlier_statements(result_json(request(said)))
    assert earlier is not None
    assert earlier["pleural_effusion"] == EarlierStatement(seen=Seen.SEEN, location="left")
    assert earlier["edema"].seen is Seen.POSSIBLE
    assert earlier["pneumothorax"].seen is Seen.NOT_SEEN


def test_a_result_from_before_the_rules_is_read_carefully() -> None:
    old = [
        {"key": "edema", "presence": "present", "probability": 0.42},
        {"key": "hernia", "presence": "absent", "probability": 0.1},
        {"key": "pneumonia", "presence": "present", "probability": 0.7},
    ]
    earlier = earlier_statements({"findings": old})
    assert earlier is not None
    assert [one.seen for one in earlier.values()] == [Seen.POSSIBLE, Seen.NOT_SEEN, Seen.SEEN]
    assert earlier_statements({"findings": []}) is None


def _flat(earlier: Mapping[str, EarlierStatement], language: str) -> str:
    said = prediction(finding("pleural_effusion", Change.STABLE))
    return " ".join(as_text(request(said, earlier=earlier, language=language)).split())


def test_a_contradiction_of_the_earlier_reading_is_told_and_not_stated() -> None:
    differs = {"pleural_effusion": EarlierStatement(seen=Seen.NOT_SEEN)}
    text = _flat(differs, "en")
    assert "Seen, not comparable with 1 March 2026: pleural effusion (that image was read otherwise)." in text
    assert "nchanged" not in text
    assert "die frühere Aufnahme wurde anders befundet" in _flat(differs, "de")
    assert "Unchanged since 1 March 2026: pleural effusion." in _flat({}, "en")


CURRENT = image("current", taken=NOW, view_position="PA")
"""View, time and person of the examples' current image."""


def test_a_newer_image_of_another_view_is_named_with_the_reason() -> None:
    older = image("older", taken=NOW - dt.timedelta(days=20), view_position="PA")
    newer = image("newer", taken=NOW - dt.timedelta(days=5), view_position="AP")
    choice = choose_prior(CURRENT, [older, newer])
    assert choice.prior == older
    note = newer_image_note(choice)
    assert note == f"Not compared with the more recent prior of {newer.when}: it has another view (AP)."
    assert "Nicht mit dem jüngsten früheren Bild vom 12. Mai 2024" in in_language(note, catalogue("de"))
    assert newer_image_note(choose_prior(CURRENT, [older])) == ""


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_conflict_of_identity_opens_the_report(language: str) -> None:
    wrong = image("wrong", taken=NOW - dt.timedelta(days=5), patient=patient(birth_date="19010101"))
    cautions = identity_cautions(choose_prior(CURRENT, [wrong]))
    assert cautions == (
        f"Check the patient (image of {wrong.when}): the patient ID agrees but the birth date differs.",
    )
    text = as_text(request(kinds()["new"].prediction, cautions=cautions, language=language))
    opening = text.split("\n\n")[1].splitlines()[1]
    assert opening.startswith({"en": "- Check the patient", "de": "- Bitte die Identität prüfen"}[language])


def test_an_id_that_stands_alone_is_a_caution() -> None:
    nobody = patient(birth_date="", sex="", name="")
    current = image("current", taken=NOW, patient=nobody)
    prior = image("prior", taken=NOW - dt.timedelta(days=5), patient=nobody)
    cautions = identity_cautions(choose_prior(current, [prior]))
    assert len(cautions) == 1
    assert cautions[0].endswith("agree; no birth date, sex or name to check against.")
