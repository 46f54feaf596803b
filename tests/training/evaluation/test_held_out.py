"""Patients that taught a checkpoint are not measured on unasked, however training and evaluation split them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.records import write_mimic_with_questions
from training.data.datasets import open_records, parse_spec
from training.evaluation.held_out import count_seen, require_held_out, salt_of
from training.readers.splits import keep_patients_apart
from training.records.drops import DataError, DropReport
from training.records.record import Record, Split


@pytest.fixture(scope="module")
def vqa(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("mimic")
    write_mimic_with_questions(root, subjects=40)
    return f"diff-vqa:{root},{root}"


def records(spec: str) -> Iterator[Record]:
    return open_records(parse_spec(spec), DropReport())


def recipe(**section: Any) -> dict[str, Any]:
    return {"data": {"kind": "records", "sets": [{"data": "diff-vqa:VQA,MIMIC", "split": "train", **section}]}}


def ask(spec: str, taught: dict[str, Any] | str, **options: Any) -> DropReport:
    report = DropReport()
    asked = {"split": Split.TEST, "by_patient": False, "seen_patients": False, **options}
    require_held_out(lambda: records(spec), taught, report, kind=parse_spec(spec).kind, **asked)
    return report


def test_published_split_of_a_set_that_training_split_by_patient_is_refused(vqa: str) -> None:
    """The published split of Medical-Diff-VQA is by question: its test patients were trained on."""
    taught = recipe(by_patient=True, salt="site")
    trained_on = {r.patient_id for r in keep_patients_apart(records(vqa), salt="site") if r.split is Split.TRAIN}
    asked = [r for r in records(vqa) if r.split is Split.TEST]
    seen = sum(r.patient_id in trained_on for r in asked)
    assert 0 < seen < len(asked)
    with pytest.raises(DataError, match=rf"^{seen} records are of patients .* --split test --by-patient"):
        ask(vqa, taught)
    assert salt_of(taught, "diff-vqa") == "site"
    assert ask(vqa, taught, by_patient=True).lines() == ["kept 0, dropped 0"]


def test_split_by_patient_of_a_set_that_training_took_as_published_is_refused(vqa: str) -> None:
    with pytest.raises(DataError, match="trained on"):
        ask(vqa, recipe(), by_patient=True)


def test_published_split_counts_patients_of_both_sides(vqa: str) -> None:
    """Of training by the published split too, each test question whose patient has a training question is counted."""
    taught = {r.patient_id for r in records(vqa) if r.split is Split.TRAIN}
    both = sum(r.patient_id in taught for r in records(vqa) if r.split is Split.TEST)
    found = count_seen(lambda: records(vqa), recipe(), kind="diff-vqa", split=Split.TEST, by_patient=False)
    assert found == both


def test_whole_set_and_training_split_are_refused(vqa: str) -> None:
    for split in (None, Split.TRAIN):
        with pytest.raises(DataError, match="trained on"):
            ask(vqa, recipe(by_patient=True), split=split, by_patient=True)


def test_who_says_seen_patients_is_asked_and_the_report_tells(vqa: str) -> None:
    report = ask(vqa, recipe(by_patient=True), seen_patients=True)
    assert any("may have taught the checkpoint" in line for line in report.lines())


def test_other_set_of_the_same_patients_counts(vqa: str) -> None:
    """MS-CXR-T and Medical-Diff-VQA show patients of MIMIC-CXR; where the published split was taken nobody can tell."""
    mimic = {"data": {"sets": [{"data": "mimic-jpg:ROOT", "split": "train", "by_patient": True}]}}
    with pytest.raises(DataError, match="trained on"):
        ask(vqa, mimic)
    mimic["data"]["sets"][0]["by_patient"] = False
    with pytest.raises(DataError, match=r"cannot be told from diff-vqa alone"):
        ask(vqa, mimic)


@pytest.mark.parametrize(
    "taught",
    ["", "LUMEN", {}, {"data": {"sets": [{"data": "nih:NIH", "split": "train"}]}}],
    ids=["no recipe", "a name", "no data", "other patients"],
)
def test_checkpoint_of_other_patients_or_of_unknown_origin_is_asked(vqa: str, taught: Any) -> None:
    assert ask(vqa, taught, split=None).lines() == ["kept 0, dropped 0"]
