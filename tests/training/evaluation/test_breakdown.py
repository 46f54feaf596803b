"""The closer look of an evaluation: confusion of changes, subgroups, intervals of bins, and how the page shows them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model.questions.answers import CHANGE_ANSWERS
from model.schema import PatientContext, StudyPair
from tests.training.evaluation.test_evaluate import QUICK, Oracle
from training.data.datasets import load_records
from training.evaluation.breakdown import MIN_SUBGROUP_PATIENTS
from training.evaluation.evaluate import Evaluation, evaluate
from training.evaluation.plots import MIN_BIN_ANSWERS, reliability_plot
from training.evaluation.report import as_html, as_json, readable
from training.metrics.classification import ReliabilityBin, wilson
from training.readers.phantom import read_phantom_pairs
from training.records.drops import DropReport
from training.records.record import Record

PAIRS = MIN_SUBGROUP_PATIENTS + 2


@pytest.fixture(scope="module")
def result() -> Evaluation:
    """Twelve patients, two of them women; the predictor is wrong on one finding."""
    items: list[tuple[Record, StudyPair]] = []
    for number, (record, pair) in enumerate(load_records(read_phantom_pairs(PAIRS, DropReport()), DropReport())):
        context = PatientContext(age_years=70, sex="F" if number < 2 else "M")
        truth = replace(record.truth, facts={"manufacturer": "<ACME>"})
        items.append((replace(record, context=context, truth=truth), pair))
    options = replace(QUICK, consistency=False)
    return evaluate(Oracle(items, wrong="cardiomegaly"), items, DropReport(), data="phantom:12", options=options)


def test_confusion_counts_every_known_change_once(result: Evaluation) -> None:
    assert result.scores is not None
    supports = {row.label: row.support for row in result.scores.changes}
    assert {name: sum(row) for name, row in zip(CHANGE_ANSWERS, result.confusion, strict=True)} == supports
    wrong = sum(sum(row) for row in result.confusion) - sum(row[n] for n, row in enumerate(result.confusion))
    assert wrong > 0


def test_subgroups_have_intervals_and_a_small_one_has_none(result: Evaluation) -> None:
    groups = {(group.axis, group.value): group for group in result.subgroups}
    assert groups["age", "60 to 74"].pairs == PAIRS
    assert groups["manufacturer", "<ACME>"].patients == PAIRS
    assert groups["sex", "F"].presence is None
    found = groups["sex", "M"].presence
    assert found is not None
    assert found.low <= found.value <= found.high < 1
    assert {axis for axis, _ in groups} >= {"age", "sex", "manufacturer"}


def test_the_page_shows_names_counts_and_answers(result: Evaluation) -> None:
    page = as_html(result)
    assert "pleural effusion" in page
    assert "pleural_effusion" not in page
    assert "&lt;ACME&gt;" in page
    assert "Which change is taken for which" in page
    assert "(gave the truth 0." in page
    curve = result.curves[0]
    assert curve.positives + curve.negatives == PAIRS
    assert f"{curve.positives} with and {curve.negatives} without" in page
    assert "synthetic images" in page
    values = as_json(result)
    assert len(values["change_confusion"]) == len(CHANGE_ANSWERS)
    assert values["subgroups"][0]["axis"] == "age"


def test_a_bin_of_few_answers_is_not_drawn_and_the_others_have_their_interval() -> None:
    few = ReliabilityBin(low=0.5, high=0.6, confidence=0.55, accuracy=1.0, count=MIN_BIN_ANSWERS - 1)
    many = ReliabilityBin(low=0.8, high=0.9, confidence=0.85, accuracy=0.8, count=10)
    assert str(reliability_plot([few, many])).count("<circle") == 1
    assert many.spread == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson 1927, 8 of 10


def test_wilson_stays_inside_and_is_wide_for_few() -> None:
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    assert wilson(5, 5)[0] < wilson(50, 50)[0]


def test_a_name_that_is_no_finding_stays() -> None:
    assert readable("macro") == "macro"
    assert readable("pleural_effusion change") == "pleural effusion change"
