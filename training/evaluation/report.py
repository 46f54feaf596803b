"""One evaluation as one HTML page (tables, plots, worst cases with images) and as JSON; both stand alone."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, Template, select_autoescape
from PIL import Image

from model.ontology import ontology
from model.questions.answers import CHANGE_ANSWERS
from model.schema import DisplayImage
from training.evaluation.breakdown import MIN_SUBGROUP_PATIENTS
from training.evaluation.evaluate import ZERO_SHOT, Evaluation
from training.evaluation.judge import JudgeScores, JudgeVerdict
from training.evaluation.plots import MIN_BIN_ANSWERS, reliability_plot, roc_plot
from training.evaluation.texts import reference_sentence
from training.metrics.significance import Interval

PICTURE_SIDE = 320
"""Longer side of an image in the report, pixels."""

LABELS = {
    "presence_auroc": "presence AUROC, mean over findings",
    "presence_accuracy": "presence accuracy",
    "change_f1": "change, macro F1",
    "side_accuracy": "side accuracy, of findings rightly called present",
    "side_coverage": "share of present findings given a side",
    "grade_accuracy": "grade accuracy",
    "swap_consistency": "other order gives the inverse change, all findings",
    "swap_consistency_changed": "the same, where a change is stated or true",
    "same_image_consistency": "same image twice: stable or none",
    "presence_ece": "expected calibration error, presence",
    "change_ece": "expected calibration error, change",
}

CONSISTENCY = {
    "order": "other order gives the inverse change",
    "order_changed": "the same, where either order states a change",
    "same_image": "same image twice: stable or none",
}


def write_report(
    evaluation: Evaluation, folder: Path, *, produced_at: str = "", judge: JudgeScores | None = None
) -> tuple[Path, Path]:
    """Write `evaluation.html` and `evaluation.json` into the folder (made where missing); returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "evaluation.html", folder / "evaluation.json"
    page.write_text(as_html(evaluation, produced_at=produced_at, judge=judge), "utf-8")
    values = as_json(evaluation, produced_at=produced_at, judge=judge)
    data.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", "utf-8")
    return page, data


def as_json(evaluation: Evaluation, *, produced_at: str = "", judge: JudgeScores | None = None) -> dict[str, Any]:
    """Every figure as plain values; what could not be computed is null, never a number."""
    values = {
        "data": evaluation.data,
        "produced_at": produced_at,
        "model": asdict(evaluation.model),
        "proxy_labels": evaluation.proxy,
        "unasked": list(evaluation.unasked),
        "scores": asdict(evaluation.scores) if evaluation.scores else None,
        "baselines": {name: asdict(scores) for name, scores in evaluation.baselines.items()},
        "texts": asdict(evaluation.texts) if evaluation.texts else None,
        "published": asdict(evaluation.published) if evaluation.published else None,
        "progression": asdict(evaluation.progression) if evaluation.progression else None,
        "prognosis": asdict(evaluation.prognosis) if evaluation.prognosis else None,
        "forecasts": [asdict(score) for score in evaluation.forecasts],
        "inversion": {name: asdict(score) for name, score in evaluation.inversion.items()},
        "choices": asdict(evaluation.choices) if evaluation.choices else None,
        "judge": asdict(judge) if judge else None,
        "reliability": {
            "presence": [asdict(part) for part in evaluation.presence_reliability],
            "change": [asdict(part) for part in evaluation.change_reliability],
        },
        "change_confusion": [list(row) for row in evaluation.confusion],
        "subgroups": [asdict(group) for group in evaluation.subgroups],
        "roc": [asdict(curve) for curve in evaluation.curves],
        "worst": [{"record": c.record_id, "loss": c.loss, "differences": c.rows} for c in evaluation.worst],
        "seconds_per_pair": evaluation.seconds_per_pair,
        "left_out": evaluation.report.as_json(),
        "consistency": {name: asdict(score) for name, score in evaluation.consistency.items()},
        "per_question": evaluation.per_question,
        "per_answer": per_answer(evaluation, judge),
        "patients": {record.record_id: record.patient_id for record in evaluation.records},
    }
    finite: dict[str, Any] = _finite(values)
    return finite


def per_answer(evaluation: Evaluation, judge: JudgeScores | None = None) -> dict[str, dict[str, float]]:
    """Every figure that has a score for each answer, for paired tests: figure → key → score."""
    figures: dict[str, dict[str, float]] = {}
    if evaluation.per_question:
        figures["findings accuracy"] = evaluation.per_question
    if evaluation.texts is not None:
        figures |= {f"difference {name}": scores for name, scores in evaluation.texts.per_answer.items()}
    if evaluation.published is not None:
        figures |= {name: scores for name, scores in evaluation.published.per_answer.items() if scores}
    if evaluation.progression is not None:
        figures["progression accuracy"] = evaluation.progression.per_answer
    if judge is not None:
        figures["judge"] = judge.per_question()
    return figures


def _finite(value: Any) -> Any:
    """NaN and infinity as None: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def as_html(evaluation: Evaluation, *, produced_at: str = "", judge: JudgeScores | None = None) -> str:
    """The whole page as text; images are inside it."""
    curves = sorted(evaluation.curves, key=lambda curve: curve.auroc)
    reliability_bins = (("presence", evaluation.presence_reliability), ("change", evaluation.change_reliability))
    scores = evaluation.scores
    return _page_template().render(
        data=evaluation.data,
        model=evaluation.model,
        produced_at=produced_at,
        proxy=evaluation.proxy,
        scores=evaluation.scores,
        by_finding=list(dict.fromkeys([*scores.finding_auroc, *scores.finding_change_f1])) if scores else [],
        baselines=evaluation.baselines,
        has_zero_shot=any(name.startswith(ZERO_SHOT) for name in evaluation.baselines),
        texts=evaluation.texts,
        published=evaluation.published,
        progression=evaluation.progression,
        prognosis=evaluation.prognosis,
        forecasts=evaluation.forecasts,
        inversion=evaluation.inversion,
        choices=evaluation.choices,
        judge=judge,
        labels=LABELS,
        unasked=evaluation.unasked,
        confusion=list(zip(CHANGE_ANSWERS, evaluation.confusion, strict=bool(evaluation.confusion))),
        changes=CHANGE_ANSWERS,
        subgroups=evaluation.subgroups,
        min_subgroup=MIN_SUBGROUP_PATIENTS,
        min_bin=MIN_BIN_ANSWERS,
        synthetic=evaluation.data.startswith("phantom"),
        consistency=[(CONSISTENCY[name], score) for name, score in evaluation.consistency.items()],
        reliability_plots=[(name, reliability_plot(bins)) for name, bins in reliability_bins if bins],
        roc_plots=[(curve, roc_plot(curve)) for curve in curves],
        cases=_describe_cases(evaluation),
        hardest=_hardest(judge),
        dropped=evaluation.report.lines(),
        seconds_per_pair=evaluation.seconds_per_pair,
    )


def _page_template() -> Template:
    environment = Environment(
        loader=PackageLoader("training", "templates"), autoescape=select_autoescape(), trim_blocks=True
    )
    environment.filters |= {"figure": figure, "spread": spread, "readable": readable}
    return environment.get_template("evaluation.html")


def _describe_cases(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The worst cases with their images and, where the pair has both, the true and the said difference sentence."""
    sentences = {
        record.record_id: (reference_sentence(record), sentence)
        for record, sentence in zip(evaluation.records, evaluation.sentences, strict=True)
        if sentence is not None
    }
    return [
        {
            "record_id": case.record_id,
            "loss": case.loss,
            "rows": case.rows,
            "current": picture_url(case.current),
            "prior": picture_url(case.prior) if case.prior is not None else None,
            "sentences": sentences.get(case.record_id),
        }
        for case in evaluation.worst
    ]


def _hardest(judge: JudgeScores | None, count: int = 8) -> list[JudgeVerdict]:
    """The answers that the judge liked least, with its reasons."""
    scored = [verdict for verdict in judge.verdicts if verdict.score is not None] if judge is not None else []
    return sorted(scored, key=lambda verdict: verdict.score or 0)[:count]


def readable(text: str) -> str:
    """The text with a finding's name in the place of its key: "pleural_effusion change" → "pleural effusion change"."""
    key, space, rest = text.partition(" ")
    concept = ontology().findings.get(key)
    return f"{concept.name}{space}{rest}" if concept is not None else text


def figure(value: float | None) -> str:
    """Three decimals; "–" for what could not be computed."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.3f}"


def spread(interval: Interval) -> str:
    """ "low – high"; "–" for what could not be computed."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return "–"
    return f"{figure(interval.low)} – {figure(interval.high)}"


def picture_url(image: DisplayImage, side: int = PICTURE_SIDE) -> str:
    """The image as a PNG data URL, its longer side at most `side` pixels."""
    grey = Image.fromarray((np.clip(image.pixels, 0, 1) * 255).round().astype(np.uint8))
    grey.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    grey.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
