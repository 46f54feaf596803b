"""Synthetic patients over several films: the process gives degrees, treatments and flags, this module the places.

A course of two films whose changes are drawn evenly is a pair (`training.phantom.sampling.sample_pair`); both kinds are
the same value, `PhantomCourse`, and are rendered, cached and written by the same functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from training.phantom.chain import FilmObservation, sample_states
from training.phantom.process import CADENCES, FILMS, FLAGS, LAB_RANGES, MEASURED, groups
from training.phantom.scene import (
    GRADE_RANGES,
    GRADED,
    GRADES,
    STABLE_JITTER,
    FindingState,
    PhantomCourse,
    PhantomFilm,
    sample_acquisition,
    sample_patient,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClinicalOptions:
    """films: fewest and most of a course. strength: of positioning and exposure."""

    films: tuple[int, int] = FILMS
    strength: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The course of a patient, without places and pixels. cadence: days between films. seen: of each film. states: of
    each of the groups at each film, hidden from every reader."""

    cadence: int
    seen: tuple[FilmObservation, ...]
    states: tuple[tuple[int, ...], ...]


def sample_story(seed: int, options: ClinicalOptions | None = None) -> Story:
    """Draw a course's story from the process."""
    options = options or ClinicalOptions()
    rng = np.random.default_rng([seed, 41])
    fewest, most = options.films
    count = int(rng.integers(fewest, most + 1))
    cadence = int(rng.choice(list(CADENCES), p=list(CADENCES.values())))
    courses = [sample_states(group.chain, cadence, count, rng, start=group.start) for group in groups()]
    states = tuple(zip(*courses, strict=True))
    return Story(cadence=cadence, states=states, seen=tuple(_observe(film, rng) for film in states))


def _observe(states: tuple[int, ...], rng: Generator) -> FilmObservation:
    levels: dict[str, int] = {}
    treatments: dict[str, bool] = {}
    flags: dict[str, int] = {}
    for group, state in zip(groups(), states, strict=True):
        levels |= {key: int(values[state]) for key, values in group.chain.levels.items()}
        treatments |= {name: bool(given[state]) for name, given in group.chain.treatments.items()}
        for name, shares in group.chain.flags.items():
            if rng.random() < MEASURED:
                flags[name] = int(rng.choice(len(FLAGS), p=shares[state]))
    return FilmObservation(levels=levels, treatments=treatments, flags=flags)


def sample_course(seed: int, options: ClinicalOptions | None = None) -> PhantomCourse:
    """A patient with a clinical course from a seed."""
    options = options or ClinicalOptions()
    story = sample_story(seed, options)
    # A stream of its own beside the story's: drawing more for the pictures leaves the story as it was.
    rng = np.random.default_rng([seed, 42])
    # Once for the course: a finding keeps its side and place from film to film, only its degree changes.
    places = _draw_places(rng)
    depths = {key: float(rng.random()) for key in places}
    films = []
    for number, seen in enumerate(story.seen):
        shown = {key: level for key, level in _order_levels(seen.levels).items() if level}
        films.append(
            PhantomFilm(
                states={key: _state(places[key], level, depths[key], rng) for key, level in shown.items()},
                acquisition=sample_acquisition(_film_seed(seed, number), strength=options.strength),
                day=number * story.cadence,
                treatments=tuple(name for name, given in seen.treatments.items() if given),
                labs={name: lab_text(name, flag, rng) for name, flag in seen.flags.items()},
            )
        )
    return PhantomCourse(patient=sample_patient(seed), films=tuple(films))


def lab_text(name: str, flag: int, rng: Generator) -> str:
    """A laboratory value as a chart prints it: "CRP" and flag 1 give "47 mg/L high"."""
    unit, ranges = LAB_RANGES[name]
    low, high = ranges[flag]
    return f"{int(rng.integers(low, high + 1))} {unit} {FLAGS[flag]}"


def _order_levels(levels: Mapping[str, int]) -> dict[str, int]:
    """In the order of the findings, so that the same seed draws the same places whatever the groups' order."""
    return {key: levels[key] for key in sorted(levels)}


def _film_seed(seed: int, number: int) -> int:
    """The first two films of a course share their seeds with a pair's; the others have some of their own."""
    return seed * 2 + number if number < 2 else (seed * 8 + number) + (1 << 40)


def _state(place: FindingState, level: int, depth: float, rng: Generator) -> FindingState:
    """The finding at a degree; how deep (0..1) it lies in the range of a degree stays with the course, but for jitter:
    within a degree a film tells nothing of the trend."""
    if place.key not in GRADED:
        return place
    low, high = GRADE_RANGES[GRADES[level - 1]]
    severity = low + depth * (high - low) + float(rng.uniform(-STABLE_JITTER, STABLE_JITTER))
    return replace(place, severity=float(np.clip(severity, low, high)))


def _draw_places(rng: Generator) -> dict[str, FindingState]:
    """Side, zone and shape of every finding for the whole course, so that none ever hides another.

    Air and fluid in the pleura, with their tube, lie on one side; what lies in the lung lies on the other one, the
    nodule above the consolidation (`sampling._keep_visible` has the same rules for pairs).
    """
    pleural, lung = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    sides = {
        "pleural_effusion": pleural,
        "pneumothorax": pleural,
        "chest_tube": pleural,
        "consolidation": lung,
        "atelectasis": lung,
        "lung_nodule": lung,
        "fracture": str(rng.choice(["left", "right"])),
        "central_line": str(rng.choice(["left", "right"])),
        "pacemaker": "left" if rng.random() < 0.75 else "right",
    }
    zones = {"consolidation": str(rng.choice(["middle", "lower"])), "lung_nodule": "upper"}
    keys = sorted({key for group in groups() for key in group.chain.levels})
    return {
        key: FindingState(
            key=key,
            severity=1.0,
            side=sides.get(key),
            zone=zones.get(key),
            seed=int(rng.integers(2**31)),
        )
        for key in keys
    }
