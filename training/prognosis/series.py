"""Prognosis on real series: the next film's findings from the films before it, with one, two and all films.

    python -m training.prognosis.series nih:FOLDER [--readings FILE.npz] --out TABLE.md

A patient's films stand in order of their numbers; nothing is known of the days between them. What came is a difference
of two labels, mined from reports or of whatever kind the set holds: agreement with it is no accuracy of a prognosis.
What is known of each film is its label (as if read without error), or a model's probability from `--readings`.
"As now" says that nothing changes.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from model.prognosis.head import PrognosisHead
from model.prognosis.inputs import Known, Reading, Vocabulary
from training.data.datasets import open_records, parse_spec
from training.metrics.classification import auroc
from training.metrics.forecasts import SettingScore, Shares, as_table
from training.phantom.ceiling import answer_of_levels
from training.prognosis.fit import FitOptions, PrognosisCase, fit_head, fit_temperature, make_arrays, vary_case
from training.prognosis.measure import commonest_answers, in_setting, measure
from training.records.drops import DataError, DropReport
from training.records.record import Record, Split

SETTINGS = ("current", "both", "all")
RESAMPLES = 300
PRESENT_NEXT = ("new", "stable", "worsening", "improving")
"""Answers after which the finding is on the next film."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFilm:
    """One film of a series. labels: finding -> present."""

    image_id: str
    labels: Mapping[str, bool]


def series_of(records: Iterable[Record]) -> dict[tuple[str, Split], list[SeriesFilm]]:
    """(patient, split) -> films in order, each once."""
    series: dict[tuple[str, Split], list[SeriesFilm]] = defaultdict(list)
    for record in records:
        labels = {key: t.current.present for key, t in record.truth.findings.items() if t.current is not None}
        series[record.patient_id, record.split].append(SeriesFilm(image_id=record.current.image_id, labels=labels))
    return dict(series)


def read_films(
    films: Sequence[SeriesFilm], findings: Sequence[str], read: Mapping[str, NDArray[np.float64]]
) -> list[Reading]:
    """A reading [findings, 4] of each film: by `read` (probabilities in the order of the findings), else its labels."""
    readings = []
    for film in films:
        own = np.array([float(film.labels.get(key, False)) for key in findings])
        present = read[film.image_id] if read else own
        rows = np.zeros((len(findings), 4))
        rows[:, 0], rows[:, 1] = 1 - present, present
        readings.append(rows)
    return readings


def cases_of(
    series: Mapping[tuple[str, Split], Sequence[SeriesFilm]],
    split: Split,
    findings: Sequence[str],
    read: Mapping[str, NDArray[np.float64]],
    *,
    least: int = 2,
) -> list[tuple[str, PrognosisCase]]:
    """(patient, case) of every film with `least` films before the next one, the current one among them."""
    cases = []
    for (patient, own), films in series.items():
        if own is not split or len(films) <= least:
            continue
        readings = read_films(films, findings, read)
        for current in range(least - 1, len(films) - 1):
            now, after = films[current].labels, films[current + 1].labels
            came = {
                key: answer_of_levels(int(now[key]), int(after[key])) for key in findings if key in now and key in after
            }
            known = Known(readings=tuple(readings[: current + 1]), days=(None,) * current)
            cases.append((patient, PrognosisCase(known=known, came=came)))
    return cases


def as_now(known: Known, findings: Sequence[str]) -> Shares:
    """That nothing changes: what is more likely there than not stays, what is not does not come."""
    present = 1 - known.readings[-1][:, 0]
    return {key: {"stable": float(p), "none": float(1 - p)} for key, p in zip(findings, present, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class NextPresence:
    """The ranking, by the films, of whether a finding is on the next one: AUROC, macro and by finding, with the
    interval of the macro figure by patient."""

    setting: str
    macro: tuple[float, float, float]
    by_finding: Mapping[str, float]


def score_next_presence(
    cases: Sequence[tuple[str, PrognosisCase]], setting: str, shares: Sequence[Shares], findings: Sequence[str]
) -> NextPresence:
    """Score one setting from the shares that were given for each case."""
    names = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in cases))}
    patients = np.array([names[name] for name, _ in cases])
    said = np.array([[sum(one[key].get(a, 0.0) for a in PRESENT_NEXT) for key in findings] for one in shares])
    came = np.array([[case.came.get(key) in PRESENT_NEXT for key in findings] for _, case in cases])
    rng = np.random.default_rng(0)
    rows_of = [np.flatnonzero(patients == number) for number in range(len(names))]
    drawn = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rows_of[number] for number in rng.integers(len(names), size=len(names))])
        drawn.append(np.mean([_auroc(came[rows, c], said[rows, c]) for c in range(len(findings))]))
    by_finding = {key: _auroc(came[:, c], said[:, c]) for c, key in enumerate(findings)}
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return NextPresence(
        setting=setting,
        macro=(float(np.mean(list(by_finding.values()))), float(low), float(high)),
        by_finding=by_finding,
    )


def _auroc(came: NDArray[np.bool_], said: NDArray[np.float64]) -> float:
    return auroc(came, said) if 0 < came.sum() < len(came) else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesFigures:
    """The measured figures. films, patients: of the test cases."""

    cases: int
    patients: int
    scores: Sequence[SettingScore]
    ranks: Sequence[NextPresence]

    def lines(self) -> list[str]:
        """Markdown."""
        table = as_table(self.scores)
        lines = [f"{self.cases} predictions of {self.patients} patients", "", *table, ""]
        lines += ["| setting | AUROC of presence on the next film, macro | by finding |", "|---|---|---|"]
        for rank in self.ranks:
            value, low, high = rank.macro
            parts = ", ".join(f"{key.replace('_', ' ')} {v:.2f}" for key, v in rank.by_finding.items())
            lines.append(f"| {rank.setting} | {value:.3f} ({low:.3f}-{high:.3f}) | {parts} |")
        return lines


def measure_series(
    series: Mapping[tuple[str, Split], Sequence[SeriesFilm]],
    findings: Sequence[str],
    read: Mapping[str, NDArray[np.float64]],
    *,
    test: Split = Split.VALIDATE,
    options: FitOptions | None = None,
) -> SeriesFigures:
    """Fit on the training patients (their last fifth sets the temperature), measure on those of `test`."""
    vocabulary = Vocabulary(findings=tuple(findings))
    learnt = cases_of(series, Split.TRAIN, findings, read)
    names = list(dict.fromkeys(name for name, _ in learnt))
    last = set(names[len(names) * 4 // 5 :])
    rng = np.random.default_rng(0)
    fitted = [vary_case(case, rng) for name, case in learnt if name not in last for _ in range(3)]
    head = fit_head(
        *make_arrays(fitted, vocabulary), vocabulary, options or FitOptions(steps=1500, decay=3e-2, hidden=16)
    )
    head = fit_temperature(
        head, *make_arrays([vary_case(case, rng) for name, case in learnt if name in last], vocabulary)
    )
    cases = cases_of(series, test, findings, read, least=3)
    commonest = commonest_answers([case for _, case in learnt])
    now = measure(cases, lambda known: as_now(known, findings), ("current",), commonest, resamples=RESAMPLES)
    scores = measure(cases, head.probabilities, SETTINGS, commonest, resamples=RESAMPLES)
    ranks = [_rank_presence(cases, setting, head, findings) for setting in SETTINGS]
    still = score_next_presence(cases, "as now", [as_now(case.known, findings) for _, case in cases], findings)
    return SeriesFigures(
        cases=len(cases),
        patients=len({name for name, _ in cases}),
        scores=[replace(now[0], setting="as now"), *scores],
        ranks=[still, *ranks],
    )


def _rank_presence(
    cases: Sequence[tuple[str, PrognosisCase]], setting: str, head: PrognosisHead, findings: Sequence[str]
) -> NextPresence:
    shares = [head.probabilities(in_setting(case.known, setting)) for _, case in cases]
    return score_next_presence(cases, setting, shares, findings)


def read_readings(path: Path, findings: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Image id -> probabilities in the order of the findings. The file: `ids`, `findings`, `probabilities` [n, k]."""
    with np.load(path) as file:
        columns = [file["findings"].tolist().index(key) for key in findings]
        return dict(zip(file["ids"].tolist(), file["probabilities"][:, columns].astype(float), strict=True))


def frequent_findings(series: Mapping[tuple[str, Split], Sequence[SeriesFilm]], least: int = 20) -> tuple[str, ...]:
    """Findings that are on at least `least` films of the training and of the test patients, in the set's order."""
    counts: dict[Split, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for (_, split), films in series.items():
        for film in films:
            for key, present in film.labels.items():
                counts[split][key] += present
    return tuple(
        key for key, n in counts[Split.TRAIN].items() if n >= least and counts[Split.VALIDATE].get(key, 0) >= least
    )


def main(
    data: Annotated[str, typer.Argument(help="a set with series of films, for example nih:FOLDER")],
    out: Annotated[Path, typer.Option(help="the table, Markdown")],
    readings: Annotated[Path | None, typer.Option(help="a model's probabilities of each film, see the module")] = None,
) -> None:
    """Measure the prognosis on the series of DATA."""
    try:
        series = series_of(open_records(parse_spec(data), DropReport()))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    findings = frequent_findings(series)
    figures = measure_series(series, findings, read_readings(readings, findings) if readings is not None else {})
    out.write_text("\n".join(figures.lines()) + "\n", "utf-8")
    print("\n".join(figures.lines()))


if __name__ == "__main__":
    typer.run(main)
