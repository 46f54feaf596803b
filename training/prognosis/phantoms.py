"""Cases of phantom courses: real readings of rendered films, or courses without films whose readings are drawn.

A course without films takes, for each finding of each film, a reading that the model gave for a film with the same true
degree: so a head learns from many more courses than anybody could render, with the errors that the model makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.prognosis.inputs import FLAGS, Known, Reading, Vocabulary
from model.schema import PatientContext
from training.phantom.ceiling import answer_of_levels
from training.phantom.chain import FilmObservation
from training.phantom.course import Story, sample_story
from training.phantom.process import LAB_TRENDS, groups
from training.phantom.scene import PHANTOM_FINDINGS
from training.prognosis.fit import PrognosisCase

Pools = Mapping[tuple[str, int], NDArray[np.float64]]
"""(finding, true degree) -> readings [n, 4] that a model gave for such films."""


def phantom_vocabulary() -> Vocabulary:
    """All that the process knows."""
    names = [name for group in groups() for name in group.chain.treatments]
    return Vocabulary(findings=PHANTOM_FINDINGS, labs=tuple(LAB_TRENDS), treatments=tuple(names))


def pools_of(readings: Sequence[Reading], films: Sequence[FilmObservation]) -> Pools:
    """The readings of films whose truth is known. Raises ValueError where a degree of a finding was never read."""
    rows_of: dict[tuple[str, int], list[NDArray[np.float64]]] = {}
    for reading, seen in zip(readings, films, strict=True):
        for row, key in enumerate(PHANTOM_FINDINGS):
            rows_of.setdefault((key, seen.levels[key]), []).append(reading[row])
    for group in groups():
        for key, levels in group.chain.levels.items():
            for level in sorted(set(levels.tolist())):
                if (key, level) not in rows_of:
                    raise ValueError(f"no film with {key} of degree {level}; more films are needed")
    return {name: np.stack(rows) for name, rows in rows_of.items()}


def draw_reading(seen: FilmObservation, pools: Pools, rng: Generator) -> Reading:
    """A reading of a film that shows this, each finding's drawn by itself."""
    rows = [pools[key, seen.levels[key]] for key in PHANTOM_FINDINGS]
    return np.stack([row[int(rng.integers(len(row)))] for row in rows])


def exact_reading(seen: FilmObservation) -> Reading:
    """The reading of a reader without errors."""
    rows = np.zeros((len(PHANTOM_FINDINGS), 4))
    rows[np.arange(len(rows)), [seen.levels[key] for key in PHANTOM_FINDINGS]] = 1.0
    return rows


def case_of(story: Story, readings: Sequence[Reading], current: int) -> PrognosisCase:
    """The case in which the film with this number is current; readings: of all films of the story."""
    seen = story.seen[current]
    labs = {name: FLAGS[flag] for name, flag in seen.flags.items()}
    given = tuple(name for name, is_given in seen.treatments.items() if is_given)
    after = story.seen[current + 1]
    return PrognosisCase(
        known=Known(
            readings=tuple(readings[: current + 1]),
            days=tuple((current - number) * story.cadence for number in range(current)),
            context=PatientContext(labs=labs, treatments=given),
        ),
        came={key: answer_of_levels(seen.levels[key], after.levels[key]) for key in PHANTOM_FINDINGS},
    )


def simulate_cases(count: int, first_seed: int, pools: Pools, rng: Generator) -> list[PrognosisCase]:
    """Every current film of so many courses, without rendering any."""
    cases = []
    for seed in range(first_seed, first_seed + count):
        story = sample_story(seed)
        readings = [draw_reading(seen, pools, rng) for seen in story.seen]
        cases += [case_of(story, readings, current) for current in range(len(story.seen) - 1)]
    return cases


def exact_cases(count: int, first_seed: int) -> list[PrognosisCase]:
    """As `simulate_cases`, for a reader without errors."""
    cases = []
    for seed in range(first_seed, first_seed + count):
        story = sample_story(seed)
        readings = [exact_reading(seen) for seen in story.seen]
        cases += [case_of(story, readings, current) for current in range(len(story.seen) - 1)]
    return cases
