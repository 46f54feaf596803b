"""Quality of predictions of the next image: by setting, against the commonest answer and the ceiling, by patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from model.prognosis.inputs import Known
from training.metrics.forecasts import ForecastRow, SettingScore, Shares, likeliest, score_settings
from training.prognosis.fit import PrognosisCase


def in_setting(known: Known, setting: str) -> Known:
    """The part that a reader of this setting (`model.prognosis.inputs.SETTINGS`) knows of it."""
    images, _, chart = setting.partition(" and ")
    shown = known.newest({"current": 1, "both": 2}.get(images, len(known.readings)))
    return shown if chart else replace(shown, context=None)


def measure(
    cases: Sequence[tuple[str, PrognosisCase]],
    predict: Callable[[Known], Shares],
    settings: Sequence[str],
    commonest: Mapping[str, str],
    *,
    best: Callable[[int, str], Shares] | None = None,
    resamples: int = 1000,
) -> list[SettingScore]:
    """Score each setting on the same cases. cases: (patient, case). best: case's number and setting -> best answers."""
    rows = {setting: _rows(cases, predict, setting, commonest, best) for setting in settings}
    return score_settings(rows, resamples=resamples)


def commonest_answers(cases: Sequence[PrognosisCase]) -> dict[str, str]:
    """Finding -> the answer that came most often, of equal ones the alphabetically first."""
    counts: dict[str, Counter[str]] = {}
    for case in cases:
        for key, answer in case.came.items():
            counts.setdefault(key, Counter())[answer] += 1
    return {key: min(counted, key=lambda word: (-counted[word], word)) for key, counted in counts.items()}


def _rows(
    cases: Sequence[tuple[str, PrognosisCase]],
    predict: Callable[[Known], Shares],
    setting: str,
    commonest: Mapping[str, str],
    best: Callable[[int, str], Shares] | None,
) -> list[ForecastRow]:
    rows = []
    for number, (name, case) in enumerate(cases):
        shares = predict(in_setting(case.known, setting))
        ideal = best(number, setting) if best is not None else None
        for key, answer in case.came.items():
            top = likeliest(shares[key])
            rows.append(
                ForecastRow(
                    patient=name,
                    key=key,
                    right=top == answer,
                    common=commonest.get(key) == answer,
                    best=None if ideal is None else likeliest(ideal[key]) == answer,
                    certainty=shares[key][top],
                    came=shares[key].get(answer, 0.0),
                )
            )
    return rows
