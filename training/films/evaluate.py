"""Figures of a checkpoint on films of people, asked through its ordinary door, with intervals by patient.

python -m training.films.evaluate demo --series ../shared/data/nih_series --out FOLDER

Presence against radiologists and against labels mined from reports, side by side; where findings are, against
radiologists' boxes; change on pairs of which radiologists read both films, beside "nothing has changed" and the
commonest answer; the order of the pair, the same film twice, calibration, subgroups, and how unlike the films are;
the agreement of the two kinds of label, the labelled studies of the folder `studies` beside, and with --language-model
what the checkpoint said without a film classifier. Writes films.json and, as tables, films.md. Every answer is kept in
answers.jsonl: started again after an interruption, it goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from model.predict import Predictor, load_predictor
from model.schema import StudyPair
from training.data.datasets import load_records
from training.evaluation.cached_predictor import CachedPredictor
from training.evaluation.consistency import score_consistency
from training.evaluation.evaluate import EvaluatedPredictor
from training.evaluation.film_tables import film_tables
from training.films.comparison_figures import agreement_tables, ask_language_model, ask_studies, mined_truths
from training.films.figures import (
    CHANGING,
    RESAMPLES,
    SIX,
    auroc_interval,
    change_figures,
    has_both_classes,
    presence_figures,
    statements,
    subgroups,
)
from training.films.pointing import pointing_figures
from training.metrics.pairs import Answered
from training.metrics.significance import Interval
from training.readers.nih_series import read_nih_marks, read_nih_series
from training.records.drops import DropReport
from training.records.record import Record, Split

SMALL_FOLDER = "images_64"
"""Of the films of 64 px in the shared set."""


def ask(
    predictor: EvaluatedPredictor, items: Iterable[tuple[Record, StudyPair]], *, twice: bool = False
) -> list[Answered]:
    """Ask for each pair; twice: also in the other order, and of the same film given twice."""
    answered = []
    for record, pair in items:
        more = twice and pair.prior is not None
        same = StudyPair(current=pair.current, prior=pair.current, context=pair.context)
        answered.append(
            Answered(
                truth=record.truth,
                prediction=predictor.predict(pair),
                swapped=predictor.predict(pair.swapped()) if more else None,
                same=predictor.predict(same) if more else None,
            )
        )
    return answered


def agreement_figures(marked: Sequence[Record], series: Path) -> dict[str, Any]:
    """AUROC of either kind of label as a reader for the other, on the films that radiologists read."""
    reports, radiologists = agreement_tables(marked, mined_truths(series), CHANGING)
    return {
        "reports read for radiologists": {
            key: auroc_interval(table) for key, table in reports.items() if has_both_classes(table)
        },
        "radiologists read for reports": {
            key: auroc_interval(table) for key, table in radiologists.items() if has_both_classes(table)
        },
    }


def language_model_figures(predictor: Predictor, marked: Sequence[tuple[Record, StudyPair]]) -> dict[str, Any]:
    """The checkpoint's answers without its film classifier, which are those of version 2, on films that were read."""
    answered = ask_language_model(predictor, marked)
    return {
        "films": len(answered),
        "presence, radiologists": presence_figures(answered, CHANGING),
        "change": change_figures(answered),
        "statements, radiologists": statements(answered),
    }


def evaluate_films(
    predictor: Predictor,
    series: Path,
    *,
    limit: int | None = None,
    language_model: int = 0,
    answers: Path | None = None,
) -> dict[str, Any]:
    """Every figure on the dev patients.

    limit: at most this many records of each kind. language_model: ask it too, about this many of the marked films.
    answers: file that keeps each answer of this checkpoint.
    """
    report = DropReport()
    asked = predictor if answers is None else CachedPredictor(answers, predictor.identity, lambda: predictor)
    marked = list(load_records(read_nih_marks(series, report), report, split=Split.VALIDATE, limit=limit))
    by_marks = ask(asked, marked, twice=True)
    records: list[Record] = []

    def iterate_pairs() -> Iterable[tuple[Record, StudyPair]]:
        for item in load_records(read_nih_series(series, report), report, split=Split.VALIDATE, limit=limit):
            # Kept on the way: pairs are read once, image by image, and are too many to hold.
            records.append(item[0])
            yield item

    by_reports = ask(asked, iterate_pairs())
    studies = series.parent / "studies"
    by_studies = ask_studies(asked, studies) if studies.is_dir() else []
    large = [item for item, record in zip(by_reports, records, strict=True) if SMALL_FOLDER not in record.current.key]
    return {
        "model": f"{predictor.identity.name} {predictor.identity.version} {predictor.identity.device_uid}",
        "films": {"marked": len(by_marks), "mined": len(by_reports)},
        "presence, radiologists": presence_figures(by_marks, predictor.findings),
        "presence, reports": presence_figures(by_reports, SIX),
        "presence, reports, larger films": {"films": len(large), **presence_figures(large, SIX)},
        "subgroups, reports": subgroups(by_reports, records, SIX),
        "change": change_figures(by_marks),
        "consistency": score_consistency(by_marks, resamples=RESAMPLES),
        "statements, radiologists": statements(by_marks),
        "statements, reports": statements(by_reports),
        "pointing": pointing_figures(predictor, marked, series),
        "agreement of the labels": agreement_figures([record for record, _ in marked], series),
        "language model alone": language_model_figures(predictor, marked[:language_model]) if language_model else None,
        "labelled studies": {"films": len(by_studies), **statements(by_studies)},
        "unlike the training films": _unlike_share(by_reports),
    }


def _unlike_share(answered: Sequence[Answered]) -> float | None:
    """The share of films that are further from the training films than the checkpoint's bound."""
    values = [item.prediction.unfamiliarity for item in answered if item.prediction.unfamiliarity is not None]
    return float(np.mean([value > 1.0 for value in values])) if values else None


def plain(value: object) -> object:
    """Intervals as value, low and high, for JSON."""
    if isinstance(value, Interval):
        return {"value": round(value.value, 4), "low": round(value.low, 4), "high": round(value.high, 4)}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    return value


def main(
    checkpoint: Annotated[str, typer.Argument(help='"demo", a checkpoint folder or a models directory')],
    series: Annotated[Path, typer.Option(help="folder nih_series")],
    out: Annotated[Path, typer.Option(help="folder for answers.jsonl, films.json and films.md")],
    limit: Annotated[int | None, typer.Option(help="at most so many films of each kind")] = None,
    language_model: Annotated[
        int, typer.Option(help="ask the language model alone, as version 2 read, about so many films; slow")
    ] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
) -> None:
    """Measure and write films.json."""
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    figures = plain(
        evaluate_films(
            load_predictor(checkpoint),
            series,
            limit=limit,
            language_model=language_model,
            answers=out / "answers.jsonl",
        )
    )
    assert isinstance(figures, dict)
    (out / "films.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
    tables = film_tables(figures)
    (out / "films.md").write_text(tables, "utf-8")
    print(tables)


if __name__ == "__main__":
    typer.run(main)
