"""MIMIC-CXR-JPG, MIMIC-CXR (DICOM), Medical-Diff-VQA and MS-CXR-T in their published formats, sound and broken."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from model.questions.battery import QuestionType
from model.questions.grammar import parse_events
from model.schema import Change
from tests.support.published import (
    VQA_HEADER,
    Study,
    mimic_studies,
    vqa_questions,
    vqa_studies_table,
    write_csv,
    write_dicoms,
    write_jpgs,
    write_mimic_tables,
)
from training.readers.diffvqa import Reversed, read_diseases, read_medical_diff_vqa
from training.readers.mimic import NEGBIO, dicom_path, jpg_path, read_mimic_cxr_jpg, study_moment
from training.readers.mimic_dicom import read_mimic_cxr_dicom, read_study_list, report_path
from training.readers.mscxrt import FINDINGS, TABLE, read_ms_cxr_t
from training.readers.splits import find_leakage
from training.records.drops import DataError, DropReport
from training.records.record import Record, Split
from training.records.truth import MANUFACTURER


@pytest.fixture(scope="module")
def jpg_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mimic-cxr-jpg")
    studies = mimic_studies(20)
    lateral = (f"{7:032x}", studies[0].subject, studies[0].study, "", "LATERAL", 10, 10, "21800101", "1.0", "", "", "")
    write_mimic_tables(root, studies, extra_metadata=[lateral])
    write_jpgs(root, studies)
    return root


def by_id(records: list[Record]) -> dict[str, Record]:
    return {record.record_id: record for record in records}


def test_every_frontal_image_gets_one_record_with_the_study_before_it(jpg_root: Path) -> None:
    report = DropReport()
    records = list(read_mimic_cxr_jpg(jpg_root, report))
    studies = {study.dicom: study for study in mimic_studies(20)}
    assert {record.current.image_id for record in records} == set(studies)
    assert report.kept == len(studies)
    assert report.dropped == Counter({"not a frontal view": 1})
    for record in records:
        study = studies[record.current.image_id]
        assert Path(record.current.key).is_file()
        assert record.current.view == study.view
        assert (record.prior is not None) == (study.order > 1)
        if record.prior is not None:
            before = studies[record.prior.image_id]
            assert (before.subject, before.order) == (study.subject, study.order - 1)
            assert record.prior.when < record.current.when
            assert len(record.earlier) == study.order - 2
    assert find_leakage(records).clean
    assert Counter(r.split for r in records)[Split.TRAIN] > 0


def test_labels_become_truth_and_silence_stays_unknown(jpg_root: Path) -> None:
    studies = {study.dicom: study for study in mimic_studies(20)}
    seen = Counter[str]()
    for record in read_mimic_cxr_jpg(jpg_root, DropReport(), labels=NEGBIO):
        labels = studies[record.current.image_id].labels
        finding = record.truth.findings.get("edema")
        current = finding.current if finding is not None else None
        assert {"1.0": True, "0.0": False}.get(labels["Edema"]) == (current.present if current else None)
        assert record.truth.proxy
        if finding is not None and finding.change is not None:
            assert record.prior is not None
            before = studies[record.prior.image_id].labels["Edema"]
            assert (before, labels["Edema"]) in (("0.0", "1.0"), ("1.0", "0.0"))
            assert finding.change is (Change.NEW if labels["Edema"] == "1.0" else Change.RESOLVED)
        seen[labels["Edema"]] += 1
    assert len(seen) == 4


def test_study_time_gets_its_leading_zeros_back() -> None:
    assert study_moment("21800506", "82530.5") == "21800506 082530.500"
    assert study_moment("21800506", "5.0") == "21800506 000005.000"
    assert study_moment("21800506", "") == "21800506 000000.000"
    assert study_moment("2180", "1.0") is None
    assert study_moment("21800506", "noon") is None


def test_bad_input_is_named_or_counted(tmp_path: Path) -> None:
    studies = mimic_studies(6)
    with pytest.raises(DataError, match=r"holds neither mimic-cxr-2\.0\.0-split\.csv"):
        list(read_mimic_cxr_jpg(tmp_path, DropReport()))
    write_mimic_tables(tmp_path, studies, extra_metadata=[
        (studies[0].dicom, studies[0].subject, studies[0].study, "", "PA", 1, 1, studies[0].date, "1.0", "", "", ""),
        ("e" * 32, studies[0].subject, studies[0].study, "", "PA", 1, 1, "someday", "1.0", "", "", ""),
    ])  # fmt: skip
    write_jpgs(tmp_path, studies[1:])
    report = DropReport()
    records = list(read_mimic_cxr_jpg(tmp_path, report))
    assert report.dropped == Counter(
        {"duplicate dicom_id": 1, "StudyDate or StudyTime is malformed": 1, "image file missing": 1}
    )
    assert len(records) == len(studies) - 1 == report.kept
    assert report.examples["image file missing"] == [studies[0].dicom]

    table = tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"metadata\.csv\.gz is cut off"):
        list(read_mimic_cxr_jpg(tmp_path, DropReport()))
    text = gzip.decompress(whole).decode().replace("ViewPosition", "Viewposition")
    table.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(DataError, match=r"lacks the columns \['ViewPosition'\]"):
        list(read_mimic_cxr_jpg(tmp_path, DropReport()))
    table.write_bytes(b"not gzip at all")
    with pytest.raises(DataError, match="no gzip file"):
        list(read_mimic_cxr_jpg(tmp_path, DropReport()))


def test_a_subject_in_two_official_splits_is_refused(tmp_path: Path) -> None:
    studies = mimic_studies(6)
    many = next(s for s in studies if s.order == 2)
    write_mimic_tables(tmp_path, [replace(s, split="test") if s is many else s for s in studies])
    with pytest.raises(DataError, match=f"subject {many.subject} is in two splits"):
        list(read_mimic_cxr_jpg(tmp_path, DropReport()))


def test_the_dicom_set_reads_view_and_time_from_the_headers(tmp_path: Path, jpg_root: Path) -> None:
    studies = mimic_studies(8)
    write_dicoms(tmp_path, studies)
    dicom_path(tmp_path, studies[0].subject, studies[0].study, studies[0].dicom).write_bytes(b"\x00" * 300)
    dicom_path(tmp_path, studies[1].subject, studies[1].study, studies[1].dicom).unlink()
    report = DropReport()
    records = list(read_mimic_cxr_dicom(tmp_path, report, tables=jpg_root))
    assert report.dropped["unreadable DICOM"] == 1
    assert report.dropped["image file missing"] == 1
    assert {r.current.image_id for r in records} == {s.dicom for s in studies[2:]}
    views = {s.dicom: s.view for s in studies}
    assert all(record.current.view == views[record.current.image_id] for record in records)
    assert any(record.prior is not None for record in records)
    assert {record.truth.facts[MANUFACTURER] for record in records} == {"ACME"}
    assert list(read_study_list(tmp_path, DropReport())) == [(s.subject, s.study) for s in studies]
    assert report_path(tmp_path, studies[0].subject, studies[0].study).is_file()
    without_tables = list(read_mimic_cxr_dicom(tmp_path, DropReport()))
    assert {record.split for record in without_tables} == {Split.TRAIN}
    assert all(not record.truth.findings for record in without_tables)


def vqa_folder(folder: Path, studies: list[Study], rows: list[tuple[object, ...]]) -> Path:
    vqa_studies_table(folder / "mimic_all.csv", studies)
    write_csv(folder / "mimic_pair_questions.csv", VQA_HEADER, rows)
    return folder


def read_vqa(folder: Path, report: DropReport, **options: object) -> list[Record]:
    return list(read_medical_diff_vqa(folder, partial(jpg_path, folder), report, check_images=False, **options))  # type: ignore[arg-type]


def test_every_question_is_given_once_with_its_own_image(tmp_path: Path) -> None:
    studies = mimic_studies(30)
    rows = vqa_questions(studies)
    report = DropReport()
    records = read_vqa(vqa_folder(tmp_path, studies, rows), report)
    assert report.dropped == Counter()
    given = Counter(
        (record.current.study_id, item.type.value, item.question, item.answer, record.split)
        for record in records
        for item in record.asked
    )
    words = {"train": Split.TRAIN, "val": Split.VALIDATE, "test": Split.TEST}
    assert given == Counter((str(r[0]), r[3], r[4], r[5], words[str(r[6])]) for r in rows)
    for record in records:
        types = {item.type for item in record.asked}
        assert (record.prior is not None) == (types == {QuestionType.DIFFERENCE})
        if record.prior is not None:
            assert record.prior.when < record.current.when
            for event in parse_events(record.asked[0].answer).events:
                if event.finding:
                    assert record.truth.findings[event.finding].change is event.change
    assert len({record.record_id for record in records if record.prior is not None}) == len(
        [record for record in records if record.prior is not None]
    )


def test_the_published_split_by_row_leaks_and_is_said_to(tmp_path: Path) -> None:
    studies = mimic_studies(30)
    records = read_vqa(vqa_folder(tmp_path, studies, vqa_questions(studies)), DropReport())
    found = find_leakage(records)
    assert not found.clean
    assert len(found.patients) > 5


def test_reversed_pairs_are_swapped_with_their_answer_or_dropped(tmp_path: Path) -> None:
    studies = mimic_studies(40)
    forward = read_vqa(vqa_folder(tmp_path / "a", studies, vqa_questions(studies)), DropReport())
    rows = vqa_questions(studies, reverse_every=2)
    report = DropReport()
    mended = read_vqa(vqa_folder(tmp_path / "b", studies, rows), report)
    exchanged = report.notes["reversed pair swapped"]
    assert exchanged > 5
    pairs = {r.record_id: r for r in forward if r.prior is not None}
    repaired = {r.record_id: r for r in mended if r.prior is not None}
    assert set(pairs) == set(repaired)
    differing = 0
    for key, record in pairs.items():
        there, here = (parse_events(r.asked[0].answer).events for r in (record, repaired[key]))
        assert here == there or set(here) == {event.inverse() for event in there}
        differing += here != there
    assert 0 < differing <= exchanged
    report = DropReport()
    kept = read_vqa(tmp_path / "b", report, reversed_pairs=Reversed.DROP)
    assert report.dropped["reversed pair"] == exchanged
    assert len([r for r in kept if r.prior is not None]) == len(pairs) - exchanged


def test_a_pair_that_is_there_both_ways_is_given_once(tmp_path: Path) -> None:
    studies = mimic_studies(10)
    second = next(s for s in studies if s.order == 2)
    first = next(s for s in studies if s.subject == second.subject and s.order == 1)
    text = "what has changed compared to the reference image?"
    forward = (second.study, second.subject, first.study, "difference", text, "nothing has changed.", "train")
    backward = (first.study, first.subject, second.study, "difference", text, "nothing has changed.", "train")
    both: list[tuple[object, ...]] = [forward, backward]
    for rows in (both, both[::-1]):
        report = DropReport()
        (record,) = read_vqa(vqa_folder(tmp_path, studies, rows), report)
        assert record.current.study_id == second.study
        assert report.dropped == Counter({"reversed pair that is there forwards as well": 1})


def test_a_reversed_pair_whose_answer_cannot_be_inverted_is_dropped(tmp_path: Path) -> None:
    studies = [s for s in mimic_studies(10) if s.order <= 2]
    second = next(s for s in studies if s.order == 2)
    first = next(s for s in studies if s.subject == second.subject and s.order == 1)
    text = "what has changed compared to the reference image?"
    row = (first.study, first.subject, second.study, "difference", text, "the heart looks odd.", "train")
    report = DropReport()
    assert read_vqa(vqa_folder(tmp_path, studies, [row]), report) == []
    assert report.dropped == Counter({"reversed pair": 1})


def test_broken_questions_are_counted_each_under_its_reason(tmp_path: Path) -> None:
    studies = mimic_studies(3)
    study = studies[0]
    other = next(s for s in studies if s.subject != study.subject)
    good = (study.study, study.subject, "", "presence", "is there edema?", "yes", "train")
    rows: list[tuple[object, ...]] = [
        good,
        good,
        (study.study, study.subject, "", "opinion", "is it nice?", "yes", "train"),
        (study.study, study.subject, "", "presence", "is there hernia?", "", "train"),
        (study.study, study.subject, "", "presence", "is there hernia?", "no", "tset"),
        ("s1", study.subject, "", "presence", "is there hernia?", "no", "train"),
        ("99", study.subject, "", "presence", "is there hernia?", "no", "train"),
        (study.study, study.subject, other.study, "difference", "what has changed?", "nothing has changed.", "train"),
        (study.study, study.subject, study.study, "difference", "what has changed?", "nothing has changed.", "train"),
    ]
    report = DropReport()
    records = read_vqa(vqa_folder(tmp_path, studies, rows), report)
    assert [item.answer for record in records for item in record.asked] == ["yes"]
    assert report.dropped == Counter(
        {
            "the same question and answer twice": 1,
            "unknown question_type": 1,
            "question or answer is empty": 1,
            "unknown split": 1,
            "study_id or ref_id is no number": 1,
            "study is not in mimic_all.csv": 1,
            "pair of two subjects": 1,
            "pair without an order in time": 1,
        }
    )


def test_a_question_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    studies = mimic_studies(5)
    path = vqa_folder(tmp_path, studies, vqa_questions(studies)) / "mimic_pair_questions.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b",")])
    with pytest.raises(DataError, match=r"cut off: its last line \d+ has 6 of 7 fields"):
        read_vqa(tmp_path, DropReport())
    middle = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*middle[:3], b"1,2,3\n", *middle[3:]]))
    report = DropReport()
    read_vqa(tmp_path, report)
    assert report.dropped == Counter({"mimic_pair_questions.csv: row with another number of fields": 1})
    path.write_bytes(whole + b'1,2,3,difference,"what has cha')
    with pytest.raises(DataError, match="inside a quoted field"):
        read_vqa(tmp_path, DropReport())
    path.write_bytes(whole + b"\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_vqa(tmp_path, DropReport())


def test_the_diseases_file_is_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no all_diseases\.json"):
        list(read_diseases(tmp_path))
    path = tmp_path / "all_diseases.json"
    entry = '{"study_id": "1", "subject_id": "2", "entity": {}, "no_entity": ["edema"]}'
    path.write_text(f"[{entry}]")
    assert next(iter(read_diseases(tmp_path)))["no_entity"] == ["edema"]
    path.write_text(f"[{entry}, ")
    with pytest.raises(DataError, match="cut off"):
        list(read_diseases(tmp_path))
    path.write_text('[{"study_id": "1"}]')
    with pytest.raises(DataError, match=r"entry 0 lacks \['entity'"):
        list(read_diseases(tmp_path))


def mscxrt_row(study: Study, before: Study, **labels: str) -> tuple[str, ...]:
    values = tuple(labels.get(key, "") for key in FINDINGS)
    path = f"p{study.subject[:2]}/p{study.subject}/s{study.study}/{study.dicom}"
    return (path, before.dicom, study.study, before.study, study.subject, *values, *("one_expert",) * len(FINDINGS))


def test_ms_cxr_t_gives_expert_changes_as_a_test_set(tmp_path: Path) -> None:
    studies = mimic_studies(10)
    second = next(s for s in studies if s.order == 2)
    first = next(s for s in studies if s.subject == second.subject and s.order == 1)
    write_jpgs(tmp_path, studies)
    header = ("dicom_id", "previous_dicom_id", "study_id", "previous_study_id", "subject_id",
              *(f"{key}_progression" for key in FINDINGS), *(f"{key}_label_quality" for key in FINDINGS))  # fmt: skip
    rows = [
        mscxrt_row(second, first, edema="worsening", pneumonia="Stable", consolidation="sideways"),
        mscxrt_row(second, first, edema="worsening"),
        mscxrt_row(first, first, edema="worsening"),
        mscxrt_row(first, second),
        mscxrt_row(first, replace(second, dicom="0" * 32), edema="stable"),
    ]
    write_csv(tmp_path / TABLE, header, rows)
    report = DropReport()
    (record,) = read_ms_cxr_t(tmp_path, partial(jpg_path, tmp_path), report)
    assert record.split is Split.TEST
    assert {key: f.change for key, f in record.truth.findings.items()} == {
        "edema": Change.WORSENING,
        "pneumonia": Change.STABLE,
    }
    assert record.truth.facts["edema quality"] == "one_expert"
    assert not record.truth.proxy
    assert report.dropped == Counter(
        {
            "unknown progression label": 1,
            "duplicate pair": 1,
            "pair of an image with itself": 1,
            "no progression label": 1,
            "image file missing": 1,
        }
    )
