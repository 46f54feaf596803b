"""The decision on a challenger: figures of both on one frozen set in, a decision with reasons out.

Pure. It passes only where the main figure is better by more than chance, no finding falls by more than the margin,
probabilities stay honest, both orders of a pair still agree, and known pairs still get their known answers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from training.gate.scores import FEWEST, MAIN, RARE, FrozenQuestion, KnownPairs, PairedTable, SystemScores
from training.metrics.significance import Comparison, Interval, bootstrap_by_patient, compare

FEWEST_KNOWN = 10
"""Known pairs that the champion gets right from which they say something."""
KNOWN_SHARE = 0.95
"""So many of the known answers must stay right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """The limits of docs/retraining.md; shares of 1.

    least_patients: with fewer patients in the frozen set nothing is promoted. margin: of a finding's fall. alpha: of
    the paired test. calibration_margin: of the rise of a calibration error. consistency_margin: of the fall of the
    agreement with itself, which may fall further while it stays at or above consistency_floor: a champion that always
    answers the same agrees with itself perfectly.
    """

    least_patients: int
    margin: float = 0.05
    alpha: float = 0.05
    calibration_margin: float = 0.02
    consistency_margin: float = 0.02
    consistency_floor: float = 0.9
    resamples: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    """One condition. passed None: could not be judged, and why stands in `words`. limit: least allowed challenger."""

    name: str
    passed: bool | None
    words: str
    champion: float | None = None
    challenger: float | None = None
    limit: float | None = None
    low: float | None = None
    high: float | None = None
    """95 % interval of challenger − champion, clustered by patient."""
    cases: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """All conditions. passed: none failed, and the main figure is better."""

    passed: bool
    champion: str
    challenger: str
    patients: int
    questions: int
    checks: tuple[GateCheck, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not; where it passed, what became better."""
        if not self.passed:
            return tuple(check.words for check in self.checks if check.passed is False)
        return tuple(check.words for check in self.checks if check.name == MAIN)

    def as_json(self) -> dict[str, Any]:
        """Plain values; what could not be computed is null."""
        return asdict(self) | {"reasons": list(self.reasons)}


def decide(
    questions: Sequence[FrozenQuestion],
    champion: SystemScores,
    challenger: SystemScores,
    known: KnownPairs,
    settings: GateSettings,
) -> Decision:
    """Judge. Raises ValueError where the two did not answer exactly these questions, or there are none."""
    keys = {question.key for question in questions}
    if not keys or set(champion.right) != keys or set(challenger.right) != keys:
        raise ValueError("champion and challenger must both have answered every question of the frozen set")
    patients = len({question.patient for question in questions})
    table = PairedTable(questions, champion, challenger)
    intervals = bootstrap_by_patient(table.patients, table.differences, resamples=settings.resamples)
    checks = [
        _enough(patients, settings),
        _main(compare([champion.right], [challenger.right]), intervals[MAIN], settings),
        *_findings(table, intervals, settings),
        *_check_pooled_figures(champion, challenger, settings),
        *_calibration(champion, challenger, settings),
        *_consistency(champion, challenger, settings),
        _check_known_pairs(known),
    ]
    main = next(check for check in checks if check.name == MAIN)
    return Decision(
        # A check that cannot be judged (None) does not stop a challenger, but the main one must be passed.
        passed=main.passed is True and all(check.passed is not False for check in checks),
        champion=champion.device_uid,
        challenger=challenger.device_uid,
        patients=patients,
        questions=len(questions),
        checks=tuple(checks),
    )


def _enough(patients: int, settings: GateSettings) -> GateCheck:
    least = settings.least_patients
    return GateCheck(
        name="patients",
        passed=patients >= least,
        words=f"the frozen set has {patients} patients with labels; at least {least} are needed",
        challenger=float(patients),
        limit=float(least),
    )


def _main(result: Comparison, interval: Interval, settings: GateSettings) -> GateCheck:
    # Wilcoxon's test takes the questions as independent, which those of one patient are not; the interval draws
    # patients. Both must hold.
    passed = bool(result.difference > 0 and result.p < settings.alpha and interval.low > 0)
    verdict = "better" if passed else "worse" if result.difference < 0 else "no significant improvement"
    words = (
        f"{MAIN}: {result.first:.3f} → {result.second:.3f} ({result.difference:+.3f}, 95 % {interval.low:+.3f} to "
        f"{interval.high:+.3f} by patients, Wilcoxon p = {result.p:.2g}): {verdict}"
    )
    return GateCheck(
        name=MAIN,
        passed=passed,
        words=words,
        champion=result.first,
        challenger=result.second,
        limit=result.first,
        low=interval.low,
        high=interval.high,
        cases=result.n,
    )


def _findings(table: PairedTable, intervals: Mapping[str, Interval], settings: GateSettings) -> list[GateCheck]:
    rows = np.arange(len(table.patients), dtype=np.intp)
    # plain floats: a numpy bool is never `is False`
    first, second = table.scores(table.first, rows).tolist(), table.scores(table.second, rows).tolist()
    checks = []
    for number, name in enumerate(table.groups):
        cases = int(table.cases[table.group_of == number].sum())
        answers = ", ".join(
            table.classes[index][2] for index in np.flatnonzero(table.group_of == number) if name != RARE
        )
        check = _not_below(name, first[number], second[number], settings.margin, cases, of=answers)
        if name == RARE and cases < FEWEST:
            check = GateCheck(name=name, passed=None, words=f"{name}: only {cases} cases, not judged", cases=cases)
        interval = intervals[name]
        checks.append(_with_interval(check, interval))
    return checks


def _with_interval(check: GateCheck, interval: Interval) -> GateCheck:
    values = asdict(check) | {"low": _finite(interval.low), "high": _finite(interval.high)}
    return GateCheck(**values)


def _not_below(name: str, first: float, second: float, margin: float, cases: int = 0, *, of: str = "") -> GateCheck:
    """The challenger may be lower by the margin at most."""
    if not (math.isfinite(first) and math.isfinite(second)):
        return GateCheck(name=name, passed=None, words=f"{name}: not known on this set, not judged", cases=cases)
    limit = first - margin
    # A fall of exactly the margin is not above it, whatever the rounding.
    passed = second >= limit - 1e-9
    judged = f" over {of}" if of else ""
    verdict = "holds" if passed else f"falls by more than {margin:.3g}"
    return GateCheck(
        name=name,
        passed=passed,
        words=f"{name}{judged}: {first:.3f} → {second:.3f}: {verdict}",
        champion=first,
        challenger=second,
        limit=limit,
        cases=cases,
    )


def _check_pooled_figures(champion: SystemScores, challenger: SystemScores, settings: GateSettings) -> list[GateCheck]:
    """The figures that no threshold can flatter."""
    return [
        _not_below(label, _figure(champion, name), _figure(challenger, name), settings.margin)
        for name, label in (("presence_auroc", "presence AUROC"), ("change_f1", "change macro F1"))
    ]


def _calibration(champion: SystemScores, challenger: SystemScores, settings: GateSettings) -> list[GateCheck]:
    checks = []
    for name, label in (
        ("presence_ece", "calibration error of presence"),
        ("change_ece", "calibration error of change"),
    ):
        first, second = _figure(champion, name), _figure(challenger, name)
        if not (math.isfinite(first) and math.isfinite(second)):
            checks.append(GateCheck(name=label, passed=None, words=f"{label}: not known on this set, not judged"))
            continue
        limit = first + settings.calibration_margin
        # 1e-9: two figures that are equal but for rounding hold.
        passed = second <= limit + 1e-9
        verdict = "holds" if passed else f"rises by more than {settings.calibration_margin:.3g}"
        checks.append(
            GateCheck(
                name=label,
                passed=passed,
                words=f"{label}: {first:.3f} → {second:.3f}: {verdict}",
                champion=first,
                challenger=second,
                limit=limit,
            )
        )
    return checks


def _consistency(champion: SystemScores, challenger: SystemScores, settings: GateSettings) -> list[GateCheck]:
    checks = []
    for name, label in (
        ("swap_consistency", "other order gives the inverse change"),
        ("same_image_consistency", "same film twice is no change"),
    ):
        first, second = _figure(champion, name), _figure(challenger, name)
        allowed = settings.consistency_margin
        if math.isfinite(first):
            allowed = max(allowed, first - settings.consistency_floor)
        checks.append(_not_below(label, first, second, allowed))
    return checks


def _check_known_pairs(known: KnownPairs) -> GateCheck:
    name = "known pairs"
    if known.counted < FEWEST_KNOWN:
        words = f"{name}: the champion gets {known.counted} of {known.asked} right, too few to judge by"
        return GateCheck(name=name, passed=None, words=words, cases=known.counted)
    share = 1 - len(known.wrong) / known.counted
    passed = share >= KNOWN_SHARE
    shown = f" (wrong: {', '.join(known.wrong[:8])})" if known.wrong else ""
    words = f"{name}: {share:.3f} of {known.counted} known answers are still right{shown}"
    return GateCheck(
        name=name, passed=passed, words=words, champion=1.0, challenger=share, limit=KNOWN_SHARE, cases=known.counted
    )


def _figure(scores: SystemScores, name: str) -> float:
    return float(scores.figures.get(name, float("nan")))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
