"""The tables of an evaluation on films of people: no figure of films.json is left out."""

from __future__ import annotations

from typing import Any

from training.evaluation.film_tables import film_tables


def _interval(value: float) -> dict[str, float]:
    return {"value": value, "low": round(value - 0.1, 4), "high": round(value + 0.1, 4)}


def _figures() -> dict[str, Any]:
    counts = {"hit": 3, "false": 9, "missed": 5, "not asked": 4}
    values = iter(number / 1000.0 for number in range(201, 900))

    def some(*keys: str) -> dict[str, dict[str, float]]:
        return {key: _interval(next(values)) for key in keys}

    return {
        "model": "demo 7 1.2.3",
        "films": {"marked": 262, "mined": 1291},
        "presence, radiologists": some("pleural_effusion", "macro", "ece"),
        "presence, reports": some("edema", "macro", "ece"),
        "presence, reports, larger films": {"films": 863, **some("edema", "macro")},
        "subgroups, reports": some("sex F", "view AP"),
        "change": {
            "answers": 651,
            "pairs": 162,
            **some("model", "majority", "nothing has changed"),
            "by state": {"new": 0.111, "stable": 0.112},
            "worse against better": some("all"),
        },
        "consistency": some("order", "same_image"),
        "statements, radiologists": counts,
        "statements, reports": {**counts, "hit": 173},
        "pointing": {"pleural_effusion": {"films": 98, "hits": 0.121, "overlap": 0.122}},
        "agreement of the labels": {"reports read for radiologists": some("atelectasis")},
        "language model alone": None,
        "labelled studies": {"films": 15, **counts, "hit": 4},
        "unlike the training films": 0.113,
    }


def _leaves(value: object) -> list[float]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [value] if isinstance(value, float) else []


def test_every_measured_value_stands_in_a_table() -> None:
    figures = _figures()
    text = film_tables(figures)
    for leaf in _leaves(figures):
        assert f"{leaf:.3f}" in text, leaf
    for words in (
        "demo 7 1.2.3",
        "1291 films",
        "863 larger films: edema",
        "| against mined labels | 173 | 9 | 5 | 4 |",
        "15 films | 4 | 9 | 5 | 4 |",
    ):
        assert words in text, words
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_what_was_not_measured_gets_no_row() -> None:
    nothing = {"films": 0, "ece": {"value": float("nan"), "low": float("nan"), "high": float("nan")}}
    figures = _figures() | {
        "presence, reports, larger films": nothing,
        "pointing": {},
        "unlike the training films": None,
        "consistency": {},
    }
    text = film_tables(figures)
    assert "pointing game" not in text
    assert "consistency" not in text
    assert "| calibration error, mined labels, 0 larger films | – |  |" in text
    assert "| films called unlike those of training | - |" in text
