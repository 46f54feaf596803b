"""Names and docstrings stay within the ranges of known codebases that `scripts/house.py` gives."""

from __future__ import annotations

from collections import Counter

import pytest

from scripts import house
from tests.support.common import REPOSITORY


@pytest.fixture(scope="module")
def measured() -> dict[str, house.Measures]:
    return {name: house.measure(REPOSITORY / name, REPOSITORY / name) for name in house.PACKAGES}


@pytest.mark.parametrize("package", house.PACKAGES)
def test_functions_are_named_by_verbs_and_docstrings_open_with_what_they_mean(
    measured: dict[str, house.Measures], package: str
) -> None:
    measures = measured[package]
    assert measures.functions > 500
    assert measures.verbs / measures.functions >= 0.41
    assert measures.count("participles") / measures.functions <= 0.033, measures.places["participles"]
    assert measures.count("docstrings") / measures.docstrings <= 0.01, measures.places["docstrings"]


@pytest.mark.parametrize("package", house.PACKAGES)
def test_hardly_a_variable_is_named_by_a_word_that_tells_nothing_of_its_value(
    measured: dict[str, house.Measures], package: str
) -> None:
    measures = measured[package]
    assert 1000 * measures.count("variables") / sum(measures.files) <= 2, measures.places["variables"]


def test_no_more_than_three_class_names_stand_for_two_classes(measured: dict[str, house.Measures]) -> None:
    every = sum((each.classes for each in measured.values()), Counter[str]())
    shared = sorted(name for name, count in every.items() if count > 1)
    assert len(shared) <= 3, shared
