"""The labeller on whole reports of many styles, and what no rewriting of a report may change."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from model.labeller.measure import (
    GoldReport,
    is_same,
    polarity_errors,
    read_cases,
    read_report_cases,
    settle_gold,
    settle_labels,
)
from model.labeller.report import read_report
from model.labeller.rules import Label, Stated, label_report, label_sentence, read_text

FOLDER = Path(__file__).parent
KEPT_PARTS = ("development", "held_out", "hard", "fresh", "check", "build")


def cases_of(*parts: str) -> list[GoldReport]:
    return [case for part in parts for case in read_cases(FOLDER / f"sentences_{part}.txt")]


@pytest.mark.parametrize("part", ["build", "check", "opened_once"])
def test_whole_reports_are_right(part: str) -> None:
    for case in read_report_cases(FOLDER / f"reports_{part}.txt"):
        found, gold = settle_labels(case.text), settle_gold(case)
        assert is_same(found, gold), f"{case.name}: {found}"
        assert not polarity_errors(found, gold)


def test_there_are_enough_sentences_and_reports() -> None:
    sentences = {case.sentence for case in cases_of(*KEPT_PARTS, "opened_once")}
    reports = [
        case for part in ("build", "check", "opened_once") for case in read_report_cases(FOLDER / f"reports_{part}.txt")
    ]
    assert len(sentences) >= 600
    assert len(reports) >= 40


def _pairs(number: int) -> list[tuple[GoldReport, GoldReport]]:
    """Sentences of the hand-read ones that speak of different findings."""
    rng = random.Random(number)
    cases = [
        case for case in cases_of(*KEPT_PARTS) if not case.sentence.startswith(("History", "Indication", "Clinical"))
    ]
    pairs: list[tuple[GoldReport, GoldReport]] = []
    while len(pairs) < 100:
        one, other = rng.sample(cases, 2)
        keys = [{label.finding for label in label_report(case.sentence)} for case in (one, other)]
        if (
            not keys[0] & keys[1]
            and one.sentence.endswith(".")
            and "..." not in one.sentence
            and "?" not in other.sentence
        ):
            pairs.append((one, other))
    return pairs


def _said(labels: list[Label]) -> list[tuple[object, ...]]:
    return sorted(
        (one.finding, one.presence, one.side or "", one.level or "", one.change or "", one.certainty) for one in labels
    )


@pytest.mark.parametrize(
    "between",
    [" ", "\n", "\r\n", "\n\n", "\n- ", "\n• ", "\n2. ", " 2) ", "<br>", "</p><p>", "\\.br\\", ".", "; ", " - "],
)
def test_sentence_about_another_finding_changes_nothing(between: str) -> None:
    """Whatever parts two sentences, each states what it states alone."""
    for one, other in _pairs(len(between)):
        first = one.sentence if between in (" ", "\n\n") else one.sentence.rstrip(".")
        alone = [*label_report(one.sentence), *label_report(other.sentence)]
        joined = f"{first}{between}{other.sentence}"
        assert _said(label_report(joined)) == _said(alone), joined


NAMES = {
    "pneumothorax": "pneumothorax",
    "pleural_effusion": "pleural effusion",
    "consolidation": "consolidation",
    "edema": "pulmonary oedema",
    "fracture": "rib fracture",
    "lung_nodule": "nodule",
}
STATED_AND_DENIED = [
    ("There is a {}.", "There is no {}."),
    ("{} is seen.", "{} is not seen."),
    ("{}: yes", "{}: no"),
    ("{} - present", "{} - none"),
    ("Evidence of {}.", "No evidence of {}."),
    ("{} is present.", "{} is absent."),
    ("Positive for {}.", "Negative for {}."),
    ("Chest radiograph with {}.", "Chest radiograph without {}."),
    ("Findings of {}.", "No findings of {}."),
    ("{} is again seen.", "{} is no longer seen."),
    ("{} has not resolved.", "{} has resolved."),
    ("1.{} 2.Lines as before", "1.No {} 2.Lines as before"),
    ("The patient has {}.", "The patient has no {}."),
]


@pytest.mark.parametrize(("stated", "denied"), STATED_AND_DENIED)
def test_turning_the_word_of_polarity_turns_the_label(stated: str, denied: str) -> None:
    for key, name in NAMES.items():
        for template, presence in ((stated, Stated.YES), (denied, Stated.NO)):
            text = template.format(name)
            text = text[0].upper() + text[1:]
            assert {label.finding: label.presence for label in label_report(text)}.get(key) is presence, text


JOINTS = (", ", " or ", " and ", " nor ", "/")
OPEN_WORDS = ("large", "new", "worsening", "increasing", "sizeable", "enlarging", "moderate", "larger", "additional")


@pytest.mark.parametrize("word", OPEN_WORDS)
@pytest.mark.parametrize("denial", ["No", "There is no", "Without", "No evidence of", "Lungs without"])
def test_adjective_in_a_denied_list_never_turns_it(word: str, denial: str) -> None:
    """In "no A, B or large C" the first two are absent and the third is left open."""
    for first, second, third in list(itertools.permutations(NAMES, 3))[::7]:
        a, b, c = (NAMES[key] for key in (first, second, third))
        for text in (f"{denial} {a}, {b}, or {word} {c}.", f"{denial} {a}, {b} or {word} {c} is seen."):
            found = {label.finding: label.presence for label in label_report(text)}
            assert found == {first: Stated.NO, second: Stated.NO}, text


@pytest.mark.parametrize("change", ["decrease in", "increase in", "improvement in", "progression of", "resolution of"])
@pytest.mark.parametrize("denial", ["No", "No significant", "No interval", "There has been no", "Without significant"])
def test_denied_change_leaves_the_finding(denial: str, change: str) -> None:
    for key, name in NAMES.items():
        (label,) = label_sentence(f"{denial} {change} the {name}.")
        assert (label.finding, label.presence, label.change) == (key, Stated.YES, None)


def test_what_is_named_and_not_stated_is_counted_with_its_reason() -> None:
    text = "No new consolidation. Evaluate for pneumothorax. Patient with known heart failure. Small effusion."
    reasons = [target.left_out for reading in read_text(text) for target in reading.not_stated]
    assert reasons == [
        "only a new or a large one is denied",
        "a question, a plan or a history",
        "a question, a plan or a history",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Kein Pneumothorax. Kein Pleuraerguss. Herz nicht vergrößert.",
        "Zustand nach Pneumothorax links. Kleiner Erguss rechts, das Herz ist normal groß und der Befund unverändert.",
        "Pas de pneumothorax.",
        "Geen pneumothorax.",
        "Sin consolidación ni pneumothorax.",
    ],
)
def test_other_languages_state_nothing(text: str) -> None:
    assert label_report(text) == []
    assert all(target.left_out == "not in English" for reading in read_text(text) for target in reading.targets)


def test_addendum_replaces_and_says_so() -> None:
    found = read_report("FINDINGS: No pneumothorax.\nADDENDUM (3 May, 14:10): Small left pneumothorax.")["pneumothorax"]
    assert (found.presence, found.side, found.level) == (Stated.YES, "left", "small")
    assert [label.sentence for label in found.overruled] == ["No pneumothorax"]


def test_phrases_stand_where_the_reading_says() -> None:
    text = "FINDINGS:\nNo  pneumothorax,\nor large effusion. Heart  enlarged."
    for reading in read_text(text):
        for mark in reading.statement.marks:
            if mark.role != "repeated" and mark.start != mark.end:
                spelled = reading.sentence.raw[mark.start : mark.end].lower()
                assert " ".join(spelled.split()) == mark.text
