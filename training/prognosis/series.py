"""Prognosis on real series: the next film's findings from the films before it, with one, two and all films.

    python -m training.prognosis.series nih-series:FOLDER [--readings FILE.npz --marks nih-marks:FOLDER] --out TABLE.md

A patient's films stand in order of their numbers; nothing is known of the days between them. What came is a difference
of two labels, mined from reports or of whatever kind the set holds: agreement with it is no accuracy of a prognosis.
What is known of each film is its label (as if read without error), or a model's probability from `--readings`
(`training.prognosis.film_readings` writes them); with readings, patients count of whom every film was read.
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
from training.metrics.forecasts import SettingScore, Shares, as_table
from training.phantom.ceiling import answer_of_levels
from training.prognosis.fit import FitOptions, PrognosisCase, fit_head, fit_temperature, make_arrays, vary_case
from training.prognosis.measure import commonest_answers, in_setting, measure
from training.prognosis.next_presence import NextPresence, rank_lines, rank_settings
from training.records.drops import DataError, DropReport
from training.records.record import Record, Split

SETTINGS = ("current", "both", "all")
LEAST_PATIENTS = 10
LEAST_TEST_IMAGES = 3
"""Known images of a test case, so that one, two and all differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFilm:
    """One film of a series. labels: finding -> present."""

    image_id: str
    labels: Mapping[str, bool]


Series = Mapping[tuple[str, Split], Sequence[SeriesFilm]]
"""(patient, split) -> films in order."""


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
    series: Series,
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
        # Every film but the last can be the current one; the one after it is what came.
        for current in range(least - 1, len(films) - 1):
            now, after = films[current].labels, films[current + 1].labels
            came = {
                key: answer_of_levels(int(now[key]), int(after[key])) for key in findings if key in now and key in after
            }
            # Days are not known of these sets (only their order), so the head sees none.
            known = Known(readings=tuple(readings[: current + 1]), days=(None,) * current)
            cases.append((patient, PrognosisCase(known=known, came=came)))
    return cases


def as_now(known: Known, findings: Sequence[str]) -> Shares:
    """That nothing changes: what is more likely there than not stays, what is not does not come."""
    present = 1 - known.readings[-1][:, 0]
    return {key: {"stable": float(p), "none": float(1 - p)} for key, p in zip(findings, present, strict=True)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeriesFigures:
    """The measured figures. cases, patients: of the test. scores: answers against the commonest one. ranks: of presence
    on the next film by the series' labels; read: the same by marks of radiologists where they read the current and the
    next film, with the number of such cases, patients and findings that were there."""

    cases: int
    patients: int
    scores: Sequence[SettingScore]
    ranks: Sequence[NextPresence]
    read_cases: int = 0
    read_patients: int = 0
    read: Sequence[NextPresence] = ()

    def lines(self) -> list[str]:
        """Markdown."""
        lines = [f"{self.cases} predictions of {self.patients} patients", "", *as_table(self.scores), ""]
        lines += rank_lines(self.ranks)
        if self.read:
            lines += ["", f"By radiologists: {self.read_cases} predictions of {self.read_patients} patients", ""]
            lines += rank_lines(self.read)
        return lines


def measure_series(
    series: Series,
    findings: Sequence[str],
    read: Mapping[str, NDArray[np.float64]],
    *,
    marks: Mapping[str, Mapping[str, bool]] | None = None,
    test: Split = Split.VALIDATE,
    options: FitOptions | None = None,
) -> SeriesFigures:
    """Fit on the training patients (their last fifth sets the temperature), measure on those of `test`.

    marks: image id -> finding -> marked by radiologists, of images that they read.
    """
    head, commonest = _learn(cases_of(series, Split.TRAIN, findings, read), findings, options)
    cases = cases_of(series, test, findings, read, least=LEAST_TEST_IMAGES)
    now = measure(cases, lambda known: as_now(known, findings), ("current",), commonest)
    scores = measure(cases, head.probabilities, SETTINGS, commonest)
    marked = {
        who: [replace(film, labels=(marks or {}).get(film.image_id, {})) for film in films]
        for who, films in series.items()
    }
    again = (
        [(name, case) for name, case in cases_of(marked, test, findings, read, least=2) if case.came] if read else []
    )
    return SeriesFigures(
        cases=len(cases),
        patients=len({name for name, _ in cases}),
        scores=[replace(now[0], setting="as now"), *scores],
        ranks=rank_settings(cases, _all_shares(cases, head, findings), findings),
        read_cases=len(again),
        read_patients=len({name for name, _ in again}),
        read=rank_settings(again, _all_shares(again, head, findings), findings) if again else (),
    )


def _learn(
    learnt: Sequence[tuple[str, PrognosisCase]], findings: Sequence[str], options: FitOptions | None
) -> tuple[PrognosisHead, dict[str, str]]:
    """The head and the commonest answers. Raises DataError where there is too little to learn from."""
    vocabulary = Vocabulary(findings=tuple(findings))
    names = list(dict.fromkeys(name for name, _ in learnt))
    if len(names) < LEAST_PATIENTS:
        raise DataError(f"{len(names)} training patients with enough films; a head needs {LEAST_PATIENTS}")
    # By patient, not by case: a patient on both sides would make the temperature too sure of itself.
    last = set(names[len(names) * 4 // 5 :])
    rng = np.random.default_rng(0)
    # Each case three times, each time with other things left out: the head must do with whatever is known.
    fitted = [vary_case(case, rng) for name, case in learnt if name not in last for _ in range(3)]
    head = fit_head(
        *make_arrays(fitted, vocabulary), vocabulary, options or FitOptions(steps=1500, decay=3e-2, hidden=16)
    )
    shown = [vary_case(case, rng) for name, case in learnt if name in last]
    return fit_temperature(head, *make_arrays(shown, vocabulary)), commonest_answers([case for _, case in learnt])


def _all_shares(
    cases: Sequence[tuple[str, PrognosisCase]], head: PrognosisHead, findings: Sequence[str]
) -> dict[str, list[Shares]]:
    """Setting -> shares of each case; "as now" first."""
    shares = {"as now": [as_now(case.known, findings) for _, case in cases]}
    for setting in SETTINGS:
        shares[setting] = [head.probabilities(in_setting(case.known, setting)) for _, case in cases]
    return shares


def marks_of(records: Iterable[Record]) -> dict[str, dict[str, bool]]:
    """Image id -> finding -> present, of every image that the records know something of."""
    marks: dict[str, dict[str, bool]] = {}
    for record in records:
        for image, name in ((record.current, "current"), (record.prior, "prior")):
            for key, truth in record.truth.findings.items():
                known = getattr(truth, name)
                if image is not None and known is not None:
                    marks.setdefault(image.image_id, {})[key] = known.present
    return marks


def read_only(series: Series, read: Mapping[str, NDArray[np.float64]]) -> dict[tuple[str, Split], Sequence[SeriesFilm]]:
    """The patients of whom every film was read by the model."""
    return {who: films for who, films in series.items() if all(film.image_id in read for film in films)}


def findings_read(path: Path) -> tuple[str, ...]:
    """The findings of a file of readings."""
    with np.load(path) as file:
        return tuple(file["findings"].tolist())


def read_readings(path: Path, findings: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Image id -> probabilities in the order of the findings. The file: `ids`, `findings`, `probabilities` [n, k]."""
    with np.load(path) as file:
        columns = [file["findings"].tolist().index(key) for key in findings]
        return dict(zip(file["ids"].tolist(), file["probabilities"][:, columns].astype(float), strict=True))


def frequent_findings(series: Series, least: int = 20) -> tuple[str, ...]:
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
    data: Annotated[str, typer.Argument(help="a set with series of films, for example nih-series:FOLDER")],
    out: Annotated[Path, typer.Option(help="the table, Markdown")],
    readings: Annotated[Path | None, typer.Option(help="a model's probabilities of each film, see the module")] = None,
    marks: Annotated[str, typer.Option(help="films that radiologists read, for example nih-marks:FOLDER")] = "",
) -> None:
    """Measure the prognosis on the series of DATA."""
    try:
        series: Series = series_of(open_records(parse_spec(data), DropReport()))
        marked = marks_of(open_records(parse_spec(marks), DropReport())) if marks else None
        findings, read = frequent_findings(series), dict[str, NDArray[np.float64]]()
        if readings is not None:
            findings = tuple(key for key in findings if key in findings_read(readings))
            read = read_readings(readings, findings)
            series = read_only(series, read)
        figures = measure_series(series, findings, read, marks=marked)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    out.write_text("\n".join(figures.lines()) + "\n", "utf-8")
    print("\n".join(figures.lines()))


if __name__ == "__main__":
    typer.run(main)
