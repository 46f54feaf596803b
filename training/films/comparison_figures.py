"""Figures to compare the model with: agreement of the kinds of label, the language model alone, labelled studies."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from model.images.display import load_display_image
from model.predict import Predictor
from model.schema import DisplayImage, StudyPair
from training.evaluation.evaluate import EvaluatedPredictor
from training.metrics.pairs import Answered
from training.readers.nih import read_nih
from training.readers.nih_series import read_nih_series
from training.records.drops import DropReport
from training.records.record import Record
from training.records.truth import PairTruth

Row = tuple[str, bool, float]
"""Patient, truth, score."""


def mined_truths(series: Path) -> dict[str, PairTruth]:
    """Film → what its report mentions, of the folder and of the folder `nih` beside it."""
    report, other = DropReport(), series.parent / "nih"
    records = chain(read_nih_series(series, report), read_nih(other, report) if other.is_dir() else ())
    return {record.current.image_id: record.truth for record in records}


def agreement_tables(
    marked: Sequence[Record], mined: Mapping[str, PairTruth], keys: Sequence[str]
) -> tuple[dict[str, list[Row]], dict[str, list[Row]]]:
    """Finding → rows, in which the mined label reads for the radiologists, and the radiologists for the mined label.

    The second is the ceiling of any figure against mined labels: nobody reads these films better than radiologists.
    """
    reports_read: dict[str, list[Row]] = {key: [] for key in keys}
    radiologists_read: dict[str, list[Row]] = {key: [] for key in keys}
    for record in marked:
        other = mined.get(record.current.image_id)
        for key in keys:
            mark = record.truth.findings.get(key)
            report = other.findings.get(key) if other is not None else None
            if mark is None or report is None or mark.current is None or report.current is None:
                continue
            by_marks, by_report = mark.current.present, report.current.present
            reports_read[key].append((record.patient_id, by_marks, float(by_report)))
            radiologists_read[key].append((record.patient_id, by_report, float(by_marks)))
    return reports_read, radiologists_read


def ask_language_model(predictor: Predictor, pairs: Iterable[tuple[Record, StudyPair]]) -> list[Answered]:
    """Ask the checkpoint as if it had no film classifier, as version 2 was."""
    films, predictor.films = predictor.films, None
    try:
        return [Answered(truth=record.truth, prediction=predictor.predict(pair)) for record, pair in pairs]
    finally:
        predictor.films = films


def ask_studies(predictor: EvaluatedPredictor, studies: Path) -> list[Answered]:
    """Ask for every labelled DICOM study of the shared folder `studies`, each with the study before it as its prior.

    Labels are those of the film that the study was made of, mined from its report; a study of another set has none.
    """
    truths = {
        Path(record.current.image_id).stem: record.truth
        for record in read_nih(studies.parent / "nih", DropReport(), check_images=False)
    }
    answered = []
    last: tuple[str, DisplayImage] | None = None
    with (studies / "manifest.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            truth = truths.get(Path(row["source_image"]).stem) if row["dataset"] == "nih" else None
            if truth is None:
                continue
            current = load_display_image(studies / row["file"])
            prior = last[1] if last is not None and last[0] == row["patient_id"] else None
            answered.append(
                Answered(truth=truth, prediction=predictor.predict(StudyPair(current=current, prior=prior)))
            )
            last = (row["patient_id"], current)
    return answered
