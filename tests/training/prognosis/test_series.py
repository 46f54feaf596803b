"""Prognosis on series of films: who is learned from, what is ranked, and what is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.film_rules import film_log_odds
from model.predict import load_predictor
from training.prognosis.film_readings import film_probabilities, save_readings
from training.prognosis.fit import FitOptions
from training.prognosis.series import (
    SeriesFilm,
    cases_of,
    findings_read,
    frequent_findings,
    marks_of,
    measure_series,
    read_only,
    read_readings,
)
from training.records.drops import DataError
from training.records.record import ImageRef, Record, Split
from training.records.truth import FindingTruth, ImageTruth, PairTruth

KEYS = ("edema", "pleural_effusion")
QUICK = FitOptions(steps=300, hidden=8, batch=64)


def lasting_series(patients: int, films: int = 6) -> dict[tuple[str, Split], list[SeriesFilm]]:
    """Edema comes and goes with a period of two films, effusion by chance: the film before the current one tells all of
    the next edema, nothing tells the effusion."""
    rng = np.random.default_rng(0)
    series = {}
    for number in range(patients):
        start = int(rng.integers(2))
        who = f"patient {number}", Split.TRAIN if number % 3 else Split.VALIDATE
        series[who] = [
            SeriesFilm(
                image_id=f"{number}/{film}",
                labels={"edema": (film // 2 + start) % 2 == 0, "pleural_effusion": bool(rng.random() < 0.5)},
            )
            for film in range(films)
        ]
    return series


def test_earlier_films_are_used_where_they_tell_the_next_one() -> None:
    figures = measure_series(lasting_series(60), KEYS, {}, options=QUICK)
    ranks = {rank.setting: rank for rank in figures.ranks}
    assert list(ranks) == ["as now", "current", "both", "all"]
    assert ranks["both"].by_finding["edema"][0] > 0.95 > ranks["as now"].by_finding["edema"][0]
    assert ranks["both"].gain is not None
    assert ranks["both"].gain[1] > 0.0, "the gain is beyond chance"
    assert 0.3 < ranks["all"].by_finding["pleural_effusion"][0] < 0.7
    lines = "\n".join(figures.lines())
    assert "gain over the first row" in lines
    assert "By radiologists" not in lines


def test_the_future_reaches_no_case() -> None:
    series = lasting_series(6)
    other = {
        who: [*films[:-1], SeriesFilm(image_id="x", labels=dict.fromkeys(KEYS, True))] for who, films in series.items()
    }
    ours, theirs = (cases_of(one, Split.TRAIN, KEYS, {}) for one in (series, other))
    for (_, mine), (_, yours) in zip(ours, theirs, strict=True):
        assert np.array_equal(np.stack(mine.known.readings), np.stack(yours.known.readings))


def test_marks_of_radiologists_count_only_where_both_films_were_read() -> None:
    series = lasting_series(60)
    read = {film.image_id: np.array([0.9, 0.1]) for films in series.values() for film in films}
    marks = {
        film.image_id: {"edema": film.labels["edema"]}
        for films in series.values()
        for number, film in enumerate(films)
        if number in (2, 3)
    }
    figures = measure_series(series, KEYS, read, marks=marks, options=QUICK)
    assert figures.read_cases == figures.read_patients == 20
    assert all(set(rank.by_finding) <= {"edema"} for rank in figures.read)


def test_patients_with_an_unread_film_are_left_out_and_too_few_are_refused() -> None:
    series = lasting_series(12)
    read = {film.image_id: np.zeros(2) for films in series.values() for film in films}
    del read["0/3"]
    kept = read_only(series, read)
    assert {who for who, _ in series} - {who for who, _ in kept} == {"patient 0"}
    with pytest.raises(DataError, match="training patients with enough films; a head needs 10"):
        measure_series(lasting_series(9), KEYS, {}, options=QUICK)


def test_marks_and_frequent_findings_are_counted_by_image() -> None:
    truth = FindingTruth(key="edema", current=ImageTruth(present=True), prior=ImageTruth(present=False))
    record = Record(
        truth=PairTruth(pair_id="1", patient_id="p", findings={"edema": truth}),
        current=ImageRef(key="b", image_id="b"),
        prior=ImageRef(key="a", image_id="a"),
    )
    assert marks_of([record]) == {"a": {"edema": False}, "b": {"edema": True}}
    assert frequent_findings(lasting_series(60)) == KEYS
    assert frequent_findings(lasting_series(2)) == ()


def test_readings_of_the_bundled_classifier_come_back_from_their_file(tmp_path: Path) -> None:
    predictor = load_predictor("demo")
    assert predictor.films is not None
    squares = np.random.default_rng(0).integers(0, 255, (2, 128, 128), dtype=np.uint8)
    rules = predictor.films.reading.findings
    rows = list(film_probabilities(predictor.films.classifier, rules, squares))
    save_readings(tmp_path / "readings.npz", ["a", "b"], list(rules), rows)
    assert findings_read(tmp_path / "readings.npz") == tuple(rules)
    back = read_readings(tmp_path / "readings.npz", ("edema", "pleural_effusion"))
    places = [list(rules).index(key) for key in ("edema", "pleural_effusion")]
    np.testing.assert_allclose(back["b"], [rows[1][place] for place in places])
    (view, _) = predictor.films.classifier.look_at_squares(torch.from_numpy(squares / 255.0).float()[:, None])
    expected = 1 / (1 + np.exp(-film_log_odds(view.scores("edema"), rules["edema"])))
    assert rows[0][places[0]] == pytest.approx(expected, abs=1e-5)
