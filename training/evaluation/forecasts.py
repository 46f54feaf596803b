"""Predictions of the next image by what is known: a study is shown as a reader of each setting would see it.

The settings are those of the prognosis: the current image alone (LUMEN's), both, all, and all with treatments and
laboratory values. What is scored is what serving would state (`Prediction.prognosis`); a finding on which nothing is
stated counts as "none". On phantom courses the best possible answers are known (`training.phantom.ceiling`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from model.schema import MAX_IMAGES, Prediction, StudyPair
from training.metrics.forecasts import ForecastRow, SettingScore, Shares, likeliest, score_settings
from training.phantom.ceiling import Knowledge, best_answers
from training.phantom.course import sample_story
from training.records.record import Record

SETTINGS = (Knowledge.CURRENT, Knowledge.BOTH, Knowledge.ALL, Knowledge.CHART)
LEAST_IMAGES = 3
"""Of a study, so that one, two and all images differ."""
_COURSE = "phantom-course/"
"""The start of the ids of phantom courses' records, before seed and number of the film."""


class StudyPredictor(Protocol):
    """Anything that answers studies, such as `model.predict.Predictor`."""

    def predict(self, pair: StudyPair) -> Prediction:
        """Answer one study."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CourseForecasts:
    """The predictions on one record in each setting."""

    record: Record
    predictions: Mapping[Knowledge, Prediction]


def can_foretell(record: Record) -> bool:
    """Tell whether a record is used: its future is known, and it has LEAST_IMAGES images."""
    return record.future is not None and len(record.images) >= LEAST_IMAGES


def foretell(predictor: StudyPredictor, record: Record, study: StudyPair) -> CourseForecasts:
    """Ask for the prognosis of a study in every setting."""
    predictions = {setting: predictor.predict(study_in_setting(study, setting)) for setting in SETTINGS}
    return CourseForecasts(record=record, predictions=predictions)


def study_in_setting(study: StudyPair, setting: Knowledge) -> StudyPair:
    """The study as a reader of this setting sees it."""
    images, _, chart = setting.value.partition(" and ")
    shown = study.newest({"current": 1, "both": 2}.get(images, MAX_IMAGES))
    return shown if chart else replace(shown, context=None)


def score_forecasts(foretold: Sequence[CourseForecasts], *, resamples: int = 1000) -> tuple[SettingScore, ...]:
    """Figures of every setting on the findings that the model answers; empty without records. The commonest answers are
    those of this very set, which flatters them."""
    if not foretold:
        return ()
    commonest = _commonest(foretold)
    ceilings = [best_of(course.record) for course in foretold]
    rows = {setting.value: _rows(foretold, setting, commonest, ceilings) for setting in SETTINGS}
    return tuple(score_settings(rows, resamples=resamples)) if all(rows.values()) else ()


def best_of(record: Record) -> Callable[[Knowledge], Shares] | None:
    """The best possible answers for a record of a phantom course, None for any other."""
    if not record.record_id.startswith(_COURSE):
        return None
    seed, _, number = record.record_id.removeprefix(_COURSE).partition("/")
    if not (seed.isdigit() and number.isdigit()):
        return None
    story = sample_story(int(seed))
    return lambda setting: best_answers(story.seen[: int(number) + 1], story.cadence, setting)


def _commonest(foretold: Sequence[CourseForecasts]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = {}
    for course in foretold:
        for key, answer in _came(course.record).items():
            counts.setdefault(key, Counter())[answer] += 1
    return {key: min(counted, key=lambda word: (-counted[word], word)) for key, counted in counts.items()}


def _came(record: Record) -> dict[str, str]:
    """Finding → what came."""
    truths = record.future.findings if record.future is not None else {}
    return {key: truth.change_answer for key, truth in truths.items() if truth.change_answer is not None}


def _rows(
    foretold: Sequence[CourseForecasts],
    setting: Knowledge,
    commonest: Mapping[str, str],
    ceilings: Sequence[Callable[[Knowledge], Shares] | None],
) -> list[ForecastRow]:
    rows = []
    for course, best in zip(foretold, ceilings, strict=True):
        prediction = course.predictions[setting]
        asked = {finding.key for finding in prediction.findings}
        stated = {item.key: item for item in prediction.prognosis}
        ideal = best(setting) if best is not None else None
        for key, answer in _came(course.record).items():
            if key not in asked:
                continue
            item = stated.get(key)
            rows.append(
                ForecastRow(
                    patient=course.record.patient_id,
                    key=key,
                    # No statement means "none": the finding is on neither film.
                    right=(item.change.value if item is not None else "none") == answer,
                    common=commonest[key] == answer,
                    best=likeliest(ideal[key]) == answer if ideal is not None else None,
                    certainty=item.probability if item is not None else None,
                    came=None,
                )
            )
    return rows
