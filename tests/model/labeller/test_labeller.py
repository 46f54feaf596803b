"""The labeller: floors on its figures over hand-written sentences, what decides a label, whole reports, any text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import LabellerError
from model.labeller import llm as labeller_llm
from model.labeller.measure import measure, pool_classes, read_cases
from model.labeller.report import read_report, values_of_finding
from model.labeller.rules import Stated, label_report, label_sentence
from model.labeller.text.word_list import word_list
from model.ontology import ontology
from model.remote.client import ServerClient
from model.remote.text_model import ServerText
from model.schema import Change
from tests.support.text_server import text_server

FOLDER = Path(__file__).parent

REPORT = """CHEST RADIOGRAPH
INDICATION: Evaluate for pneumonia. History of pneumothorax.
COMPARISON: 1 February.
FINDINGS:
The heart is mildly enlarged. There is a small left pleural effusion which has
increased. No pneumothorax. Possible pneumonia at the right base.

IMPRESSION:
1. Increasing small left pleural effusion.
2. Right lower lobe pneumonia.
"""


@pytest.mark.parametrize(
    ("part", "precision", "recall", "change_precision", "change_recall"),
    [
        ("development", 1.0, 1.0, 1.0, 1.0),
        ("held_out", 0.99, 0.99, 0.99, 0.99),
        ("hard", 0.98, 0.97, 0.97, 0.96),
        ("fresh", 0.98, 0.97, 0.97, 0.95),
        ("check", 1.0, 1.0, 1.0, 1.0),
        ("build", 1.0, 1.0, 1.0, 1.0),
        ("opened_once", 0.99, 0.99, 0.97, 0.97),
        ("second", 0.99, 0.98, 1.0, 0.97),
        ("third", 1.0, 0.99, 1.0, 1.0),
        ("last", 0.98, 0.99, 1.0, 0.95),
    ],
)
def test_figures_do_not_fall(
    part: str, precision: float, recall: float, change_precision: float, change_recall: float
) -> None:
    """Floors a little below what docs/labeller.md reports."""
    measured = measure(read_cases(FOLDER / f"sentences_{part}.txt"), label_report)
    findings, changes = pool_classes(measured.findings), pool_classes(measured.changes)
    assert (findings.precision or 0) >= precision, measured.errors
    assert (findings.recall or 0) >= recall, measured.errors
    assert (changes.precision or 0) >= change_precision, measured.errors
    assert (changes.recall or 0) >= change_recall, measured.errors
    assert measured.polarity_errors == 0, measured.errors


def test_there_are_enough_sentences() -> None:
    cases = [case for part in ("development", "held_out") for case in read_cases(FOLDER / f"sentences_{part}.txt")]
    assert len({case.sentence for case in cases}) >= 300
    assert {label.change for case in cases for label in case.gold} >= set(Change) - {Change.NOT_COMPARABLE}
    assert any(not case.gold for case in cases)


def test_malformed_gold_is_refused_by_line(tmp_path: Path) -> None:
    wrong = tmp_path / "sentences.txt"
    wrong.write_text("A mass.\n  = lung_mass perhaps\n", "utf-8")
    with pytest.raises(LabellerError, match=r"line 2: .*lung_mass perhaps"):
        read_cases(wrong)


@pytest.mark.parametrize(
    ("text", "presence"),
    [
        ("Not seen: pneumothorax, effusion.", Stated.NO),
        ("Absent are effusion and pneumothorax.", Stated.NO),
        ("Present: pneumothorax.", Stated.YES),
        ("Pneumothorax, which was not present on the earlier film.", Stated.YES),
        ("No pneumonia or tension pneumothorax.", None),
        ("A pneumothorax would be hard to see on this film.", None),
        ("No pneumothorax is increasing in size.", None),
    ],
)
def test_pneumothorax_is_read_with_its_polarity(text: str, presence: Stated | None) -> None:
    found = [label.presence for label in label_report(text) if label.finding == "pneumothorax"]
    assert found == ([] if presence is None else [presence])


def test_label_says_what_decided() -> None:
    (label,) = label_sentence("No evidence of left pneumothorax.", section="findings")
    assert (label.finding, label.presence, label.side) == ("pneumothorax", Stated.NO, "left")
    assert label.sentence == "No evidence of left pneumothorax."
    assert label.rule == 'finding "pneumothorax"; denial "no"; side "left"'
    assert label.section == "findings"


@pytest.mark.parametrize(
    ("written", "finding"),
    [("penumothorax", "pneumothorax"), ("atelectsis", "atelectasis"), ("cardiomegally", "cardiomegaly")],
)
def test_one_typing_error_is_tolerated(written: str, finding: str) -> None:
    assert [label.finding for label in label_sentence(f"Unchanged {written}.")] == [finding]


@pytest.mark.parametrize("word", ["confusion", "hepatoma", "injection", "edges", "mess", "plaid"])
def test_other_words_are_not_taken_for_errors(word: str) -> None:
    assert label_sentence(f"Study for {word}.") == []


def test_listed_words_do_not_hide_each_other() -> None:
    """A right word must never be "mended" into another: no listed word counts as a misspelling."""
    for phrase in word_list().phrases:
        assert all(token in word_list().known for token in phrase)


def test_report_is_read_by_sections() -> None:
    found = read_report(REPORT)
    assert set(found) == {"pleural_effusion", "pneumothorax", "cardiomegaly", "pneumonia"}
    assert values_of_finding(found["pleural_effusion"]) == {
        "presence": "present",
        "change": "worsening",
        "location": "left",
        "level": "small",
    }
    assert values_of_finding(found["pneumothorax"]) == {"presence": "absent"}, "the history is no finding"
    assert found["pneumonia"].presence is Stated.YES, "the impression decides what the findings doubt"


def test_contradiction_is_kept_as_one() -> None:
    found = read_report("FINDINGS: No pleural effusion. Heart normal.\nIMPRESSION: Small left pleural effusion.")
    assert found["pleural_effusion"].presence is None
    assert "No pleural effusion" in found["pleural_effusion"].contradiction
    assert values_of_finding(found["pleural_effusion"]) == {}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("No left pneumothorax.", {}),
        ("No left pneumothorax. No right pneumothorax.", {"presence": "absent"}),
        ("Left pneumothorax has resolved.", {"presence": "absent", "change": "resolved"}),
        ("Right pneumothorax. No left pneumothorax.", {"presence": "present", "location": "right"}),
        (
            "Right pneumothorax has increased. Left pneumothorax has decreased.",
            {"presence": "present", "location": "bilateral"},
        ),
        ("Possible pneumothorax.", {}),
    ],
)
def test_sides_are_put_together(text: str, values: dict[str, str]) -> None:
    found = read_report(text).get("pneumothorax")
    assert (values_of_finding(found) if found else {}) == values


def test_change_that_contradicts_itself() -> None:
    found = read_report("The effusion is unchanged. IMPRESSION: The effusion has increased.")["pleural_effusion"]
    assert found.presence is None
    assert "unchanged" in found.contradiction


def test_explicit_words_outweigh_the_whole() -> None:
    found = read_report("The lungs are clear. Stable right upper lobe nodule.")
    assert found["lung_nodule"].presence is Stated.YES
    assert found["consolidation"].presence is Stated.NO


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400) | st.lists(st.sampled_from(sorted(word_list().known) + list(".,;:()\n")), max_size=60))
def test_any_text_gives_labels_of_the_ontology(given_text: str | list[str]) -> None:
    text = given_text if isinstance(given_text, str) else " ".join(given_text)
    first = label_report(text)
    assert first == label_report(text)
    for label in first:
        concept = ontology().findings[label.finding]
        assert label.side is None or (concept.lateral and label.side in ontology().sides)
        assert label.level is None or (
            concept.graded and label.presence is not Stated.NO and label.level in ontology().levels
        )
        assert label.change is not Change.NOT_COMPARABLE
        assert label.rule
    read_report(text)


GOOD = """Here it is: {"findings": [{"finding": "pneumothorax", "presence": "no", "side": null, "level": null,
"change": null, "sentence": "No pneumothorax."}, {"finding": "pleural_effusion", "presence": "yes", "side": "left",
"level": "small", "change": "worsening",
"sentence": "There is a small left pleural effusion which has increased."}]}"""


def test_language_model_labels_are_checked() -> None:
    seen: list[dict[str, Any]] = []
    with text_server(lambda _prompt: GOOD, seen) as url, ServerClient(url, timeout_seconds=20) as client:
        labels = labeller_llm.label_report(REPORT, ServerText(client, "reader"))
    assert [(label.finding, label.presence.value, label.change) for label in labels] == [
        ("pneumothorax", "no", None),
        ("pleural_effusion", "yes", Change.WORSENING),
    ]
    assert labels[0].section == "findings"
    assert "Evaluate for pneumonia" not in seen[0]["messages"][0]["content"], "what is no finding does not go out"
    assert seen[0]["temperature"] == 0


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("I see a pneumothorax.", "not the JSON"),
        ('{"findings": [{"finding": "pneumothorax", "presence": "maybe", "sentence": "No pneumothorax."}]}', "JSON"),
        ('{"findings": [{"finding": "gout", "presence": "yes", "sentence": "No pneumothorax."}]}', "'gout'"),
        ('{"findings": [{"finding": "fracture", "presence": "yes", "sentence": "Rib fracture."}]}', "does not say"),
        (
            '{"findings": [{"finding": "fracture", "presence": "yes", "side": "top", "sentence": "No pneumothorax."}]}',
            "'top'",
        ),
    ],
)
def test_useless_answers_of_a_language_model_are_refused(answer: str, why: str) -> None:
    with (
        text_server(lambda _prompt: answer, []) as url,
        ServerClient(url, timeout_seconds=20) as client,
        pytest.raises(LabellerError, match=why),
    ):
        labeller_llm.label_report(REPORT, ServerText(client, "reader"))
