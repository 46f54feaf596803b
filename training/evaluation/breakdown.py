"""A closer look at an evaluation: which change is taken for which, and the figures of subgroups of the patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.questions.answers import CHANGE_ANSWERS
from training.evaluation.cases import aspects
from training.metrics.classification import confusion
from training.metrics.pairs import Answered, change_said
from training.metrics.significance import Interval
from training.metrics.summed import interval, mean_figure
from training.records.record import Record
from training.records.truth import MANUFACTURER

MIN_SUBGROUP_PATIENTS = 10
"""A smaller subgroup is named with its size and gets no figure: its interval would cover everything."""
AGE_BANDS = ((0, 18), (18, 40), (40, 60), (60, 75), (75, 150))
"""Years, the upper end excluded."""
AXES = ("age", "sex", "view", MANUFACTURER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """The pairs of one value of one axis. presence, change: share of right answers; None where there are too few."""

    axis: str
    value: str
    pairs: int
    patients: int
    presence: Interval | None
    change: Interval | None


def change_confusion(answered: Sequence[Answered]) -> tuple[tuple[int, ...], ...]:
    """Counts [true change, stated change] over all findings, in the order of CHANGE_ANSWERS; the last column holds
    answers that are none of them ("not comparable", missing). Empty where no change is known."""
    truth, answers = [], []
    for answer in answered:
        stated = {finding.key: change_said(finding) for finding in answer.prediction.findings}
        for key, known in answer.truth.findings.items():
            if answer.truth.has_prior and known.change_answer is not None:
                truth.append(known.change_answer)
                answers.append(stated.get(key, "missing"))
    if not truth:
        return ()
    return tuple(tuple(int(count) for count in row) for row in confusion(truth, answers, CHANGE_ANSWERS))


def subgroup_scores(
    records: Sequence[Record], answered: Sequence[Answered], *, resamples: int = 1000
) -> tuple[Subgroup, ...]:
    """Subgroups by age band, sex, view and manufacturer, as far as the data set knows them."""
    groups: dict[tuple[str, str], list[Answered]] = {}
    by_pair = {answer.truth.pair_id: answer for answer in answered}
    for record in records:
        answer = by_pair.get(record.truth.pair_id)
        if answer is not None:
            for group in _places(record):
                groups.setdefault(group, []).append(answer)
    order = sorted(groups, key=lambda place: (AXES.index(place[0]), place[1]))
    return tuple(_subgroup(axis, value, groups[axis, value], resamples) for axis, value in order)


def _places(record: Record) -> Iterator[tuple[str, str]]:
    """(axis, value) of what is known of a record."""
    context, view = record.context, record.truth.view or record.current.view
    if context is not None and context.age_years is not None:
        band = next((f"{low:02d} to {high - 1}" for low, high in AGE_BANDS if low <= context.age_years < high), "")
        yield "age", band or "over 150"
    if context is not None and context.sex:
        yield "sex", context.sex
    if view:
        yield "view", view
    if manufacturer := record.truth.facts.get(MANUFACTURER):
        yield MANUFACTURER, manufacturer


def _subgroup(axis: str, value: str, answered: Sequence[Answered], resamples: int) -> Subgroup:
    patients = {answer.truth.patient_id for answer in answered}
    enough = len(patients) >= MIN_SUBGROUP_PATIENTS
    return Subgroup(
        axis=axis,
        value=value,
        pairs=len(answered),
        patients=len(patients),
        presence=_share_right(answered, "presence", resamples) if enough else None,
        change=_share_right(answered, "change", resamples) if enough else None,
    )


def _share_right(answered: Sequence[Answered], aspect: str, resamples: int) -> Interval | None:
    """Share of right answers on one aspect, all findings pooled, with its patient-clustered interval."""
    keys, patients, right = [], [], []
    for answer in answered:
        stated_findings = {finding.key: finding for finding in answer.prediction.findings}
        for key, truth in answer.truth.findings.items():
            for name, true, stated, _ in aspects(truth, stated_findings.get(key), answer.truth.has_prior):
                if name == aspect:
                    keys.append(f"{answer.truth.pair_id}/{key}")
                    patients.append(answer.truth.patient_id)
                    right.append(float(true == stated))
    return interval([mean_figure(keys, patients, right)], resamples=resamples) if keys else None
