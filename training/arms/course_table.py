"""The tables of the study on courses, written into a document between two marks, and as JSON beside it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.experts.expert import THRESHOLD
from training.arms.course_ask import SHOWN, CourseAnswer, CourseAnswerSet
from training.arms.course_data import OPTIONS, StudyCourses
from training.arms.course_expert import present_on
from training.arms.data import STUDY_FINDINGS
from training.arms.table import WITHOUT, finite, write_p, write_table
from training.metrics.baselines import majority_answers
from training.metrics.classification import auroc
from training.metrics.forecasts import ForecastRow, SettingScore, Shares, likeliest, score_settings
from training.metrics.significance import bootstrap_one_by_patient, compare
from training.phantom.ceiling import Knowledge, best_answers
from training.phantom.course import sample_story
from training.records.drops import DataError

BEGIN, END = "<!-- courses: begin -->", "<!-- courses: end -->"
BUNDLED, PREDICTION, WITH_EXPERT = "bundled model", "+ prediction", "+ expert"
COMMON = "always the commonest"
COMPARED = (
    (BUNDLED, PREDICTION),
    (PREDICTION, WITH_EXPERT),
    (PREDICTION, WITH_EXPERT + WITHOUT),
    (WITH_EXPERT + WITHOUT, WITH_EXPERT),
)
"""Rows that are tested against one another: the second is compared with the first."""
KNOWN = {
    CourseAnswerSet.NEXT_FROM_ONE: ("one", Knowledge.CURRENT),
    CourseAnswerSet.NEXT_FROM_TWO: ("two", Knowledge.BOTH),
}
"""The films that the best possible reader of a part of the test sees, and what it knows of them."""
Results = Mapping[str, Sequence[tuple[dict[str, Any], dict[str, list[CourseAnswer]]]]]
Rows = Mapping[str, Sequence[Sequence[CourseAnswer]]]
"""Row of the tables → the answers of each of its runs."""


def write_course_study(results: Results, test: StudyCourses, doc: Path) -> tuple[Path, Path]:
    """Put the tables into `doc` and write the JSON beside it; returns both paths. Raises DataError.

    test: the courses that were asked about, with the expert's opinions where it has any.
    """
    if not results:
        raise DataError("there is no result of the study on courses to make a table of")
    _check_alike(results)
    before, mark, rest = doc.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise DataError(f"{doc} lacks the marks {BEGIN} and {END}")
    rows = course_rows(results)
    scores = {kind: score_part(rows, kind) for kind in _parts_asked(rows)}
    gains = gains_of(rows)
    of_expert = expert_figures(test)
    tables = [_next_table(scores, rows), _seen_table(scores, rows), _gain_table(gains), _expert_table(of_expert)]
    text = "\n\n".join(table for table in tables if table)
    doc.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")
    values = {
        "runs": {name: [about for about, _ in runs] for name, runs in results.items()},
        "figures": {kind.value: {name: asdict(score) for name, score in part.items()} for kind, part in scores.items()},
        "gains": gains,
        "expert": of_expert,
    }
    data = doc.with_name(f"{doc.stem}-courses.json")
    # through JSON once, so that tuples are lists
    data.write_text(json.dumps(finite(json.loads(json.dumps(values))), indent=1, allow_nan=False) + "\n", "utf-8")
    return doc, data


def _check_alike(results: Results) -> None:
    """Raise DataError where the runs of one table learned for different times or were asked different things."""
    for key in ("steps", "training_courses", "test_courses"):
        values = {about[key] for name, runs in results.items() if name != BUNDLED for about, _ in runs}
        if len(values) > 1:
            raise DataError(
                f"the runs have different {key}: {sorted(values)}; remove the results of some, or start again"
            )


def course_rows(results: Results) -> Rows:
    """The rows of the tables. An arm with the expert is scored with its text, and once more without."""
    rows: dict[str, list[list[CourseAnswer]]] = {}
    for name, runs in results.items():
        rows[name] = [answers.get("with", answers["without"]) for _, answers in runs]
        if any("with" in answers for _, answers in runs):
            rows[f"{name}{WITHOUT}"] = [answers["without"] for _, answers in runs]
    return rows


def _parts_asked(rows: Rows) -> list[CourseAnswerSet]:
    """The parts of the test that were asked, in their order."""
    there = {item.set for item in next(iter(rows.values()))[0]}
    return [kind for kind in CourseAnswerSet if kind in there]


def score_part(rows: Rows, kind: CourseAnswerSet) -> dict[str, SettingScore]:
    """Score each row on one part of the test, the answers of all its runs together, courses being the patients."""
    asked = [item for item in next(iter(rows.values()))[0] if item.set is kind]
    # Learnt on the test itself, which makes this baseline as strong as it can be.
    common = majority_answers((item.finding, item.truth) for item in asked)
    best = {course: _best_answers(course, kind) for course in {item.course for item in asked}}
    table = {
        name: [
            ForecastRow(
                patient=str(item.course),
                key=item.finding,
                right=item.said == item.truth,
                common=common.answer(item.finding) == item.truth,
                best=likeliest(best[item.course][item.finding]) == item.truth if best[item.course] else None,
                certainty=item.shares[item.said],
                came=item.shares[item.truth],
            )
            for run in runs
            for item in run
            if item.set is kind
        ]
        for name, runs in rows.items()
    }
    return {score.setting: score for score in score_settings(table)}


def _best_answers(course: int, kind: CourseAnswerSet) -> Shares:
    """The best possible predictions; empty for the parts of the test that ask of what is shown."""
    if kind not in KNOWN:
        return {}
    films, knowledge = KNOWN[kind]
    story = sample_story(course, OPTIONS)
    return best_answers([story.seen[film] for film in SHOWN[films]], story.cadence, knowledge)


def gains_of(rows: Rows) -> list[dict[str, Any]]:
    """The gain of each of COMPARED in each part of the test: mean over courses, 95 % interval, and p by course.

    The gain in accuracy counts right answers, that in log loss how much less the truth surprised (above 0 is better).
    """
    gains = []
    for first, second in COMPARED:
        for kind in _parts_asked(rows) if first in rows and second in rows else ():
            item: dict[str, Any] = {"set": kind.value, "of": second, "against": first}
            for figure, by_course in (("accuracy", _right_by_course), ("log_loss", _surprise_by_course)):
                item[figure] = _gain(by_course(rows[first], kind), by_course(rows[second], kind))
            gains.append(item)
    return gains


def _gain(old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
    change = np.array([new[course] - old[course] for course in old])

    def mean(places: NDArray[np.intp]) -> float:
        return float(change[places].mean())

    shown = bootstrap_one_by_patient(list(old), mean)
    p = compare([old], [new]).p
    return {"gain": shown.value, "low": shown.low, "high": shown.high, "p": p, "courses": len(old)}


def _right_by_course(runs: Sequence[Sequence[CourseAnswer]], kind: CourseAnswerSet) -> dict[str, float]:
    return _by_course(runs, kind, lambda item: float(item.said == item.truth))


def _surprise_by_course(runs: Sequence[Sequence[CourseAnswer]], kind: CourseAnswerSet) -> dict[str, float]:
    return _by_course(runs, kind, lambda item: float(np.log(max(item.shares[item.truth], 1e-6))))


def _by_course(
    runs: Sequence[Sequence[CourseAnswer]], kind: CourseAnswerSet, score: Callable[[CourseAnswer], float]
) -> dict[str, float]:
    """Mean score of each course over its findings and the runs: seeds of one course are not independent patients."""
    scores: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for item in run:
            if item.set is kind:
                scores[str(item.course)].append(score(item))
    return {course: float(np.mean(values)) for course, values in scores.items()}


def expert_figures(test: StudyCourses) -> dict[str, dict[str, float]]:
    """Share of right "yes" and "no" of the expert on the films of the test, and AUROC, for each finding."""
    if test.opinions is None:
        return {}
    present = present_on(test) > 0.5
    return {
        key: {
            "films": len(present),
            "present": float(present[:, column].mean()),
            "accuracy": float(((test.opinions[:, column] >= THRESHOLD) == present[:, column]).mean()),
            "auroc": auroc(present[:, column], test.opinions[:, column]),
        }
        for column, key in enumerate(STUDY_FINDINGS)
    }


def _next_table(scores: Mapping[CourseAnswerSet, Mapping[str, SettingScore]], rows: Rows) -> str:
    body = [
        [
            kind.value,
            name,
            str(len(rows[name])),
            _share(score.accuracy),
            f"{score.common:.3f}",
            "-" if score.ceiling is None else f"{score.ceiling:.3f}",
            "-" if score.skill is None else _share(score.skill, 2),
            f"{score.ece:.3f}",
            "-" if score.log_loss is None else f"{score.log_loss:.3f}",
        ]
        for kind in scores
        if kind in KNOWN
        for name, score in scores[kind].items()
    ]
    head = ("asked", "arm", "runs", "accuracy", COMMON, "ceiling", "skill", "calibration error", "log loss")
    return f"### Prediction of the next film\n\n{write_table(head, body)}"


def _seen_table(scores: Mapping[CourseAnswerSet, Mapping[str, SettingScore]], rows: Rows) -> str:
    body = [
        [kind.value, name, str(len(rows[name])), _share(score.accuracy), f"{score.common:.3f}", f"{score.ece:.3f}"]
        for kind in scores
        if kind not in KNOWN
        for name, score in scores[kind].items()
    ]
    head = ("asked", "arm", "runs", "accuracy", COMMON, "calibration error")
    return f"### What the films show\n\n{write_table(head, body)}"


def _gain_table(gains: Sequence[Mapping[str, Any]]) -> str:
    body = []
    for item in gains:
        cells = [str(item["set"]), f"{item['of']} against {item['against']}"]
        for figure in ("accuracy", "log_loss"):
            gain = item[figure]
            cells += [_share((gain["gain"], gain["low"], gain["high"])), write_p(gain["p"])]
        body.append(cells)
    head = ("asked", "compared", "gain in accuracy", "p", "gain in log loss", "p")
    return f"### Gains, by course\n\n{write_table(head, body)}" if body else ""


def _expert_table(of_expert: Mapping[str, Mapping[str, float]]) -> str:
    body = [
        [key, f"{row['films']:.0f}", f"{row['present']:.2f}", f"{row['accuracy']:.2f}", f"{row['auroc']:.2f}"]
        for key, row in of_expert.items()
    ]
    head = ("finding", "films", "present", "right", "AUROC")
    return f"### The expert by itself\n\n{write_table(head, body)}" if body else ""


def _share(value: tuple[float, float, float], digits: int = 3) -> str:
    return f"{value[0]:.{digits}f} ({value[1]:.{digits}f} to {value[2]:.{digits}f})"
