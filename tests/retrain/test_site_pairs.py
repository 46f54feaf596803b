"""The prior's own report adds to a pair: "no pneumothorax" twice means no change, and training learns that too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.schema import Change
from training.readers.site import read_site
from training.records.drops import DropReport
from training.records.record import Record


def word(aspect: str, value: str) -> dict[str, str]:
    return {
        "finding": "pneumothorax",
        "aspect": aspect,
        "verdict": "correct",
        "value": value,
        "author": "reader",
        "source": "web",
        "at": "2026-03-01T10:00:00+00:00",
    }


def pair_of(folder: Path, before: str, now: list[dict[str, str]], report: DropReport) -> Record:
    lines = [
        {"format": "dicom-node-site", "version": 1},
        {
            "patient": "p",
            "study": "1",
            "image": "1.1",
            "when": "2025",
            "path": "a",
            "words": [word("presence", before)],
        },
        {
            "patient": "p",
            "study": "2",
            "image": "2.1",
            "when": "2026",
            "path": "b",
            "prior_image": "1.1",
            "prior_path": "a",
            "prior_when": "2025",
            "words": now,
        },
    ]
    export = folder / "site.jsonl"
    export.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    records = {record.current.image_id: record for record in read_site(export, report, check_images=False)}
    assert set(records) == {"1.1", "2.1"}
    return records["2.1"]


@pytest.mark.parametrize(
    ("before", "now", "answer"),
    [
        ("absent", "absent", "none"),
        ("absent", "present", Change.NEW),
        ("present", "absent", Change.RESOLVED),
        ("present", "present", None),
    ],
)
def test_words_on_both_images_settle_what_they_can(tmp_path: Path, before: str, now: str, answer: str | None) -> None:
    report = DropReport()
    truth = pair_of(tmp_path, before, [word("presence", now)], report).truth.findings["pneumothorax"]
    assert truth.change_answer == answer
    assert truth.prior is not None
    assert truth.prior.present == (before == "present")
    assert not report.notes


def test_a_word_on_the_change_weighs_more_and_the_contradiction_is_counted(tmp_path: Path) -> None:
    report = DropReport()
    truth = pair_of(tmp_path, "absent", [word("change", "worsening")], report).truth.findings["pneumothorax"]
    assert truth.change is Change.WORSENING
    assert truth.prior is not None
    assert truth.prior.present
    assert sum(report.notes.values()) == 1
