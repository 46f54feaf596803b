"""MI-CXR and CheXTemporal in their published layouts, with rows and images made here."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.schema import Change
from training.data.datasets import load_choices, load_pair, open_records, parse_spec
from training.readers.chextemporal import GOLD, SILVER, read_chextemporal
from training.readers.micxr import TABLE, findings_named, read_mi_cxr
from training.records.choices import ChoiceFamily
from training.records.drops import DataError, DropReport
from training.records.record import Split

PATIENT = "files/p10/p10000032"


def save_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (80, 64), dtype=np.uint8)).save(path)


def visit(number: int) -> str:
    return f"{PATIENT}/s5000000{number}/{number}{'a' * 7}-{number}.jpg"


def question(**changes: Any) -> dict[str, Any]:
    options = [f"T{place} → T{place + 1}" for place in range(1, 5)]
    return {
        "qid": 7,
        "group_type": "TEL",
        "qtype": "single_emergence",
        "images": {f"T{number}": visit(number) for number in range(1, 6)},
        "question": "Between which studies does pleural effusion newly appear?",
        "choices": dict(zip("ABCDE", [*options, "There is no new appearance of pleural effusion"], strict=True)),
        "answer": "C",
        **changes,
    }


def write_questions(folder: Path, rows: list[dict[str, Any]], *, extra: str = "") -> None:
    (folder / TABLE).write_text("".join(f"{json.dumps(row)}\n" for row in rows) + extra, "utf-8")


def save_visits(folder: Path) -> None:
    for number in range(1, 6):
        path = folder / visit(number)
        save_image(path, number)


def test_mi_cxr_gives_questions_over_five_visits(tmp_path: Path) -> None:
    save_visits(tmp_path)
    prose = {letter: f"statement {letter}" for letter in "ABCDE"}
    as_list = [visit(number) for number in range(1, 6)]
    hub = {name: value for name, value in question(choices=prose, images=as_list).items() if name != "qid"}
    rows = [question(), hub | {"q_id": 8, "group_type": "GTS", "qtype": "single_entity_interval_summary"}]
    write_questions(tmp_path, rows)
    report = DropReport()
    first, second = read_mi_cxr(tmp_path, tmp_path, report)
    assert report.kept == 2
    assert first.item_id == "micxr/7"
    assert first.family is ChoiceFamily.EVENT
    assert first.patient_id == "mimic/10000032"
    assert first.findings == ("pleural_effusion",)
    assert [image.key for image in first.images] == [str(tmp_path / path) for path in as_list]
    assert first.choices[first.answer] == "T3 → T4"
    assert second.family is ChoiceFamily.COURSE
    assert second.images == first.images
    ((_, images), _) = load_choices(f"mi-cxr:{tmp_path},{tmp_path}", DropReport())
    assert len(images) == 5


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (question(choices={"A": "yes", "B": "no"}), "not five options"),
        (question(answer="F"), "malformed question"),
        (question(group_type="XYZ"), "malformed question"),
        (question(images={"T1": visit(1)}), "malformed question"),
        (question(images=[visit(1)] * 3), "malformed question"),
        (question(images=7), "malformed question"),
        ({"qid": 1}, "malformed question"),
        (question(images=[*[visit(n) for n in range(1, 5)], "files/p11/p11000000/s1/x.jpg"]), "of several patients"),
        (question(images=[*[visit(n) for n in range(1, 5)], f"{PATIENT}/s9/none.jpg"]), "image file missing"),
    ],
)
def test_mi_cxr_drops_what_does_not_fit_and_names_it(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    save_visits(tmp_path)
    write_questions(tmp_path, [row, question(), question()], extra="not json\n\n")
    report = DropReport()
    (kept,) = read_mi_cxr(tmp_path / TABLE, tmp_path, report)
    assert kept.item_id == "micxr/7"
    assert sum(count for name, count in report.dropped.items() if reason in name) >= 1
    assert report.dropped["duplicate question"] == 1
    assert report.total_dropped == 3


def test_longer_names_of_findings_are_found_before_shorter_ones() -> None:
    assert findings_named("Does pleural effusion appear before the pneumothorax?") == (
        "pleural_effusion",
        "pneumothorax",
    )
    assert findings_named("Which statement is true?") == ()


# --- CheXTemporal ---


def gold_row(**changes: str) -> dict[str, str]:
    return {
        "patient_id": "patient35117",
        "study_id_prev": "study1",
        "study_id_curr": "study2",
        "img_path_prev": "chexpert/train/patient35117/study1/view1_frontal.jpg",
        "img_path_curr": "chexpert/train/patient35117/study2/view1_frontal.jpg",
        "disease_name": "Pleural Effusion",
        "progression": "Worse",
        "dataset": "chexpert",
        **changes,
    }


GOLD_ROWS = [
    gold_row(),
    gold_row(disease_name="Edema", progression="Resolved"),
    gold_row(disease_name="Atelectasis", progression="New"),
    gold_row(disease_name="Pneumothorax", progression="Stable"),
    gold_row(disease_name="Pneumothorax", progression="Improved"),
    gold_row(disease_name="Hiccup"),
    gold_row(disease_name="Consolidation", progression="Sideways"),
    gold_row(disease_name="Cardiomegaly", img_path_prev=""),
    gold_row(study_id_curr="study3", img_path_curr="chexpert/train/patient35117/study3/view1_frontal.jpg"),
]


def save_films(folder: Path) -> None:
    for number in (1, 2):
        path = folder / f"chexpert/train/patient35117/study{number}/view1_frontal.jpg"
        save_image(path, number)


def write_table(folder: Path, name: str, rows: list[dict[str, str]], *, kind: str) -> None:
    if kind == "csv":
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return
    arrow = pytest.importorskip("pyarrow", reason="Parquet needs the extra 'parquet'")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(rows), folder / f"{name}.parquet")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_chextemporal_gold_is_a_test_set_with_one_record_for_each_pair(tmp_path: Path, kind: str) -> None:
    save_films(tmp_path)
    write_table(tmp_path, GOLD, GOLD_ROWS, kind=kind)
    report = DropReport()
    (record,) = open_records(parse_spec(f"chextemporal:{tmp_path},{tmp_path}"), report)
    assert record.split is Split.TEST
    assert not record.truth.proxy
    assert record.patient_id == "chexpert/patient35117"
    changes = {key: truth.change for key, truth in record.truth.findings.items()}
    assert changes == {
        "pleural_effusion": Change.WORSENING,
        "edema": Change.RESOLVED,
        "atelectasis": Change.NEW,
    }
    edema, new = record.truth.findings["edema"], record.truth.findings["atelectasis"]
    assert edema.current is not None
    assert new.prior is not None
    assert not edema.current.present
    assert not new.prior.present
    assert load_pair(record).prior is not None
    assert report.dropped == {
        "two labels of one finding": 1,
        "unknown finding": 1,
        "unknown progression label": 1,
        "no image path": 1,
        "image file missing": 1,
    }


def test_chextemporal_silver_is_marked_as_read_from_reports(tmp_path: Path) -> None:
    row = gold_row(dataset="mimic", patient_id="p10000032")
    silver = {
        "finding": row.pop("disease_name"),
        "parent_image_prev": "mimic/p10/p10000032/s1/a.jpg",
        "parent_image_curr": "mimic/p10/p10000032/s2/b.jpg",
        **{name: value for name, value in row.items() if not name.startswith("img_path")},
    }
    write_table(tmp_path, SILVER, [silver, silver | {"parent_image_curr": silver["parent_image_prev"]}], kind="csv")
    report = DropReport()
    (record,) = read_chextemporal(tmp_path, tmp_path, report, table=SILVER, check_images=False)
    assert record.split is Split.TRAIN
    assert record.truth.proxy
    assert record.patient_id == "mimic/10000032", "as the readers of MIMIC name patients"
    assert report.dropped["pair of an image with itself"] == 1


def test_chextemporal_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither gold_progression_pairs\.parquet nor gold_progression_pairs\.csv"):
        list(read_chextemporal(tmp_path, tmp_path, DropReport()))
    write_table(tmp_path, GOLD, [{k: v for k, v in gold_row().items() if k != "progression"}], kind="csv")
    with pytest.raises(DataError, match="lacks the column progression"):
        list(read_chextemporal(tmp_path, tmp_path, DropReport()))
    pytest.importorskip("pyarrow", reason="Parquet needs the extra 'parquet'")
    (tmp_path / f"{GOLD}.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match="no readable Parquet table"):
        list(read_chextemporal(tmp_path, tmp_path, DropReport()))
