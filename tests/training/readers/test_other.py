"""NIH ChestX-ray14, Hannover, the node's own studies, and the splits: no patient in two of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.ontology import ontology
from model.schema import Change
from tests.support.common import shared
from tests.support.published import write_csv
from training.readers.hannover import read_hannover
from training.readers.nih import read_nih
from training.readers.site import read_site
from training.readers.splits import Shares, find_leakage, keep_patients_apart, patient_split, require_no_leakage
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record, Split
from training.records.truth import FindingTruth, ImageTruth, PairTruth

NIH_HEADER = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender",
              "View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]")  # fmt: skip


def save_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16), dtype=np.uint8)).save(path)


def nih_row(name: str, labels: str, follow_up: object, patient: str, view: str = "PA") -> tuple[object, ...]:
    return (name, labels, follow_up, patient, "058Y", "M", view, 2682, 2749, 0.143, 0.143)


def test_nih_orders_by_follow_up_and_not_by_name(tmp_path: Path) -> None:
    rows = [
        nih_row("00000001_000.png", "Cardiomegaly|Effusion", 2, "1"),
        nih_row("00000001_001.png", "No Finding", 0, "1"),
        nih_row("00000001_002.png", "Effusion", 1, "1", "AP"),
        nih_row("00000002_000.png", "Hernia", 0, "2"),
    ]
    write_csv(tmp_path / "Data_Entry_2017_v2020.csv", NIH_HEADER, rows)
    for number, row in enumerate(rows):
        save_image(tmp_path / f"images_00{number + 1}" / "images" / str(row[0]), number)
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n")
    (tmp_path / "train_val_list.txt").write_text("\n".join(str(row[0]) for row in rows[:3]))
    records = {record.current.image_id: record for record in read_nih(tmp_path, DropReport())}
    assert records["00000001_001.png"].prior is None
    last = records["00000001_000.png"]
    assert last.prior is not None
    assert last.prior.image_id == "00000001_002.png"
    assert [image.image_id for image in last.earlier] == ["00000001_001.png"]
    assert last.truth.findings["cardiomegaly"].change is Change.NEW
    both = last.truth.findings["pleural_effusion"]
    assert (both.change, both.nothing) == (None, False)
    assert last.truth.findings["hernia"].nothing
    assert (last.truth.view, last.truth.prior_view) == ("PA", "AP")
    assert last.context is not None
    assert last.context.age_years == 58
    assert records["00000002_000.png"].split is Split.TEST
    assert last.split is Split.TRAIN


def test_nih_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows = [
        nih_row("a.png", "Effusion", 0, "1"),
        nih_row("a.png", "Effusion", 0, "1"),
        nih_row("b.png", "Wisdom", 1, "1"),
        nih_row("c.png", "Effusion", "one", "1"),
        nih_row("d.png", "Effusion", 2, "1", "LL"),
        nih_row("e.png", "Effusion", 3, "1"),
        nih_row("f.png", "Effusion", 4, "1"),
        nih_row("g.png", "Effusion", 4, "1"),
    ]
    write_csv(tmp_path / "Data_Entry_2017_v2020.csv", NIH_HEADER, rows)
    for name, seed in (("a", 1), ("f", 1), ("g", 2)):
        save_image(tmp_path / "images" / f"{name}.png", seed)
    report = DropReport()
    records = list(read_nih(tmp_path, report))
    assert [record.current.image_id for record in records] == ["a.png", "f.png", "g.png"]
    assert all(record.prior is None for record in records)
    assert report.dropped == Counter(
        {
            "duplicate Image Index": 1,
            "unknown label, or Follow-up # is no number": 2,
            "not a frontal view": 1,
            "image file missing": 1,
            "pair of one film under two names": 1,
            "pair without an order in time": 1,
        }
    )
    assert "dropped 2: unknown label" in "\n".join(report.lines())
    with pytest.raises(DataError, match=r"holds neither Data_Entry_2017_v2020\.csv"):
        list(read_nih(tmp_path / "images", DropReport()))


@pytest.mark.shared_data
def test_the_shared_radiographs_give_the_pairs_of_their_readme() -> None:
    report = DropReport()
    nih = list(read_nih(shared("data", "nih"), report))
    # 263 consecutive pairs, one of which is a single film under two names.
    assert (len(nih), sum(record.prior is not None for record in nih)) == (862, 262)
    assert report.examples["pair of one film under two names"] == ["00002658_001.png and 00002658_002.png"]
    assert Counter(record.split for record in nih) == {Split.TRAIN: 730, Split.VALIDATE: 130, Split.FIXTURE: 2}
    report = DropReport()
    hannover = list(read_hannover(shared("data", "hannover"), report))
    assert (len(hannover), sum(record.prior is not None for record in hannover)) == (196, 115)
    assert report.dropped["pair without an order in time"] == 20
    assert {record.truth.facts.get("icu_proxy") for record in hannover} > {"icu:worsened", "icu:improved"}
    assert all(not record.truth.findings and record.truth.proxy for record in hannover)
    assert require_no_leakage([*nih, *hannover]).clean


def hannover_folder(root: Path, rows: list[tuple[object, ...]]) -> Path:
    write_csv(root / "data.csv", ("patient_id", "image_id", "sex", "admission_offset", "projection"), rows)
    write_csv(root / "splits.csv", ("patient_id", "split", "images"), [("p1", "train", 2), ("p2", "dev", 1)])
    proxies = [("a", "b", "icu:worsened", "", 3)]
    write_csv(root / "pairs.csv", ("prior", "current", "icu_proxy", "crp_proxy", "delta_days"), proxies)
    for number, name in enumerate("abcd"):
        save_image(root / "png" / f"{name}.png", number)
    return root


def test_hannover_orders_by_exam_day_and_keeps_the_course_as_a_fact(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [
        ("p1", "b", "f", -5, "ap"),
        ("p1", "a", "f", -2, "pa"),
        ("p2", "c", "m", "", "ap"),
        ("p3", "d", "m", 0, "ap"),
        ("p2", "x", "m", 0, "ap"),
    ]
    report = DropReport()
    first, second = read_hannover(hannover_folder(tmp_path, rows), report)
    assert (first.current.image_id, first.prior) == ("a", None)
    assert second.prior == first.current
    assert second.truth.facts == {"icu_proxy": "icu:worsened", "delta_days": "3"}
    assert report.dropped == Counter(
        {"not a frontal view, or no exam day": 1, "patient without a split": 1, "image file missing": 1}
    )


def word(finding: str, aspect: str, verdict: str, stated: str, value: str = "", **more: str) -> dict[str, str]:
    base = {"author": "dr a", "role": "radiologist", "source": "web", "at": "2026-01-01T00:00:00Z"}
    return {"finding": finding, "aspect": aspect, "verdict": verdict, "stated": stated, "value": value, **base, **more}


def site_line(image: str, *words: dict[str, str], **fields: Any) -> str:
    entry = {
        "patient": "p1",
        "study": "1.2",
        "image": image,
        "when": "20260102000000.000000",
        "path": "current.dcm",
        "view": "PA",
        "prior_image": "1.1",
        "prior_path": "prior.dcm",
        "prior_when": "20260101000000.000000",
        "prior_view": "AP",
        "said": [
            {"finding": "edema", "presence": "present", "probability": 0.9, "change": "new", "level": "mild"},
            {"finding": "pneumothorax", "presence": "absent", "probability": 0.1},
        ],
        "words": list(words),
    }
    return json.dumps({**entry, **fields}) + "\n"


def site_export(folder: Path, *lines: str, header: str = '{"format": "dicom-node-site", "version": 1}\n') -> Path:
    (folder / "current.dcm").touch()
    (folder / "prior.dcm").touch()
    path = folder / "export.jsonl"
    path.write_text(header + "".join(lines))
    return path


def site_truth(folder: Path, *words: dict[str, str], report: DropReport | None = None) -> PairTruth:
    (record,) = read_site(site_export(folder, site_line("1.5", *words)), report or DropReport())
    return record.truth


def test_only_what_a_person_said_is_truth(tmp_path: Path) -> None:
    truth = site_truth(
        tmp_path,
        word("edema", "presence", "agree", "present"),
        word("edema", "change", "correct", "new", "worsening"),
        word("edema", "level", "correct", "mild", "moderate to severe"),
        word("pneumothorax", "presence", "wrong", "absent"),
        word("pneumothorax", "location", "correct", "right", "left apical"),
    )
    assert set(truth.findings) == {"edema", "pneumothorax"}
    assert truth.findings["edema"] == FindingTruth(
        key="edema",
        current=ImageTruth(present=True, grade="severe"),
        prior=ImageTruth(present=True),
        change=Change.WORSENING,
    )
    pneumothorax = truth.findings["pneumothorax"]
    assert pneumothorax.current == ImageTruth(present=True, side="left")
    assert pneumothorax.prior is None


def test_agreeing_with_the_whole_result_confirms_what_has_no_word_of_its_own(tmp_path: Path) -> None:
    truth = site_truth(tmp_path, word("", "result", "agree", ""), word("edema", "change", "correct", "new", "stable"))
    assert truth.findings["edema"].change is Change.STABLE
    assert truth.findings["pneumothorax"].current == ImageTruth(present=False)


def test_the_newest_word_of_one_author_counts_and_disagreement_is_left_out(tmp_path: Path) -> None:
    report = DropReport()
    truth = site_truth(
        tmp_path,
        word("edema", "presence", "wrong", "present", at="2026-01-03T00:00:00Z"),
        word("edema", "presence", "agree", "present", at="2026-01-02T00:00:00Z"),
        word("pneumothorax", "presence", "agree", "absent"),
        word("pneumothorax", "presence", "wrong", "absent", author="dr b", source="report"),
        word("wisdom", "presence", "agree", "present"),
        report=report,
    )
    assert truth.findings["edema"].current == ImageTruth(present=False)
    assert "pneumothorax" not in truth.findings
    assert report.dropped == Counter(
        {"feedback disagrees with itself": 1, "feedback on a finding that is not in the ontology": 1}
    )


def test_words_that_contradict_each_other_settle_nothing(tmp_path: Path) -> None:
    report = DropReport()
    lines = [
        site_line("1.5", word("edema", "presence", "wrong", "present"), word("edema", "change", "agree", "new")),
        site_line("1.6"),
        site_line("1.6"),
        site_line("1.7", word("edema", "presence", "agree", "present"), prior_when="20270101000000.000000"),
        site_line("1.8", word("edema", "presence", "agree", "present"), path="gone.dcm"),
        site_line("1.9", shoe_size=43),
        "not json\n",
    ]
    assert list(read_site(site_export(tmp_path, *lines), report)) == []
    reasons = dict(report.dropped)
    assert reasons.pop("no feedback that settles a finding") == 2
    assert reasons.pop("duplicate image") == 1
    assert reasons.pop("prior is not earlier than the image") == 1
    assert reasons.pop("image file missing") == 1
    assert len(reasons) == 2
    assert all(reason.startswith("malformed line: ") for reason in reasons)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "does not begin with a header"),
        ('{"format": "other", "version": 1}\n', "is no dicom-node-site export"),
        ('{"format": "dicom-node-site", "version": 9}\n', "has version 9; this reader knows version 1"),
        ("[1]\n", "is no dicom-node-site export"),
    ],
)
def test_a_foreign_export_is_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(read_site(site_export(tmp_path, header=header), DropReport()))


def test_a_cut_off_or_missing_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        list(read_site(tmp_path / "none.jsonl", DropReport()))
    export = site_export(tmp_path, site_line("1.5", word("edema", "presence", "agree", "present"))[:-20])
    with pytest.raises(DataError, match="is cut off in line 2"):
        list(read_site(export, DropReport()))


def record_of(patient: str, image: str, split: Split) -> Record:
    return Record(
        truth=PairTruth(pair_id=image, patient_id=patient, findings={}, has_prior=False),
        current=ImageRef(key=image, image_id=image),
        split=split,
    )


@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(list(Split))), max_size=80),
    st.text(max_size=8),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
)
def test_no_patient_is_in_two_splits(rows: list[tuple[int, Split]], salt: str, validate: float, test: float) -> None:
    records = [record_of(f"p{patient}", f"i{number}", split) for number, (patient, split) in enumerate(rows)]
    loose = [r for r in records if r.split is not Split.FIXTURE]
    disjoint = list(keep_patients_apart(loose, salt=salt, shares=Shares(validate=validate, test=test)))
    assert find_leakage(disjoint).clean
    assert [r.current for r in disjoint] == [r.current for r in loose]
    fixtures = [r for r in keep_patients_apart(records, salt=salt) if r.split is Split.FIXTURE]
    assert [r.current for r in fixtures] == [r.current for r in records if r.split is Split.FIXTURE]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.sampled_from(list(Split))), max_size=40))
def test_the_leakage_report_names_exactly_what_leaks(rows: list[tuple[int, int, Split]]) -> None:
    records = [record_of(f"p{patient}", f"i{image}", split) for patient, image, split in rows]
    found = find_leakage(records)
    for ids, name in ((found.patients, "patient_id"), (found.images, "image")):
        places: dict[str, set[Split]] = {}
        for record in records:
            which = record.patient_id if name == "patient_id" else record.current.image_id
            places.setdefault(which, set()).add(record.split)
        assert ids == {which: frozenset(where) for which, where in places.items() if len(where) > 1}
    if not found.clean:
        with pytest.raises(DataError, match="the splits leak"):
            require_no_leakage(records)


def test_the_shares_are_met_and_do_not_depend_on_the_other_patients() -> None:
    shares = Shares(validate=0.1, test=0.2)
    splits = Counter(patient_split(f"p{number}", "salt", shares) for number in range(20_000))
    assert abs(splits[Split.TEST] / 20_000 - 0.2) < 0.01
    assert abs(splits[Split.VALIDATE] / 20_000 - 0.1) < 0.01
    assert patient_split("p1", "salt", shares) is patient_split("p1", "salt", shares)
    with pytest.raises(ValueError, match="leave patients"):
        Shares(validate=0.5, test=0.5)


def test_every_label_of_the_published_sets_means_a_finding_of_the_ontology() -> None:
    from training.readers.labels import CHEXPERT_LABELS, chexpert_keys, chexpert_known, nih_keys

    assert set(CHEXPERT_LABELS) - set(chexpert_keys()) == {"No Finding", "Support Devices"}
    assert len(nih_keys()) == 14
    assert set(chexpert_keys().values()) | set(nih_keys().values()) <= set(ontology().findings)
    assert chexpert_known({"No Finding": "1.0", "Edema": "-1.0", "Fracture": "1.0"}) == {
        key: key == "fracture" for key in chexpert_keys().values() if key != "edema"
    }
    assert chexpert_known({"Edema": "nan"}) == {}
