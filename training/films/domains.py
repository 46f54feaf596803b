"""Statistics that tell films of people from phantoms and from what is neither, by the first member's features."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.experts.film_classifier import Domains
from model.experts.film_network import SIDE, FilmNetwork
from model.images.display import from_grey, load_display_image
from model.images.square import fit
from training.films.film_set import FilmSet
from training.films.outputs import domains_of, features_of
from training.phantom.course import ClinicalOptions
from training.phantom.course_dicom import write_course
from training.phantom.render import render_pair, sample_pair

PHANTOM_SEED, PHANTOM_FILMS, PHANTOM_SIDE = 8_500_000, 240, 320
"""Phantom films of pairs for the statistics of their kind; a third is held back for its limit."""
COURSE_SEED, COURSES, COURSE_FILMS = 3_200_000, 80, (2, 3)
"""Phantom courses beside them, as DICOM: sicker than pairs, and of the shape of a film instead of a square."""
HELD_COURSE = 3
"""One course in so many is held back for the limit."""
LEARNED_STEP = 8
"""One in so many training films gives the statistics of people."""

Features = NDArray[np.float32]


def film_domains(films: FilmSet, first: FilmNetwork, phantoms: tuple[Features, Features] | None = None) -> Domains:
    """Statistics of the first member's features for films of people and for phantoms.

    Films of every size by their share: of films of 64 px one in five would else be unlike those of training. phantoms:
    what `phantom_features` gave, where it is known.
    """
    learned, held = np.flatnonzero(films.is_training)[::LEARNED_STEP], np.flatnonzero(films.is_validation)
    people, kept_back = (features_of(first, films.squares[rows]) for rows in (learned, held))
    drawn, drawn_back = phantoms or phantom_features(first)
    return domains_of([people, drawn], [kept_back, drawn_back])


def phantom_features(
    first: FilmNetwork, pairs: int = PHANTOM_FILMS // 2, courses: int = COURSES
) -> tuple[Features, Features]:
    """Features of phantom films for their statistics, and of those held back for the limit; no patient is in both."""
    squares = phantom_squares(2 * pairs, PHANTOM_SEED)
    held = 2 * (pairs // 3)
    learned, back = [squares[held:]], [squares[:held]]
    for seed in range(COURSE_SEED, COURSE_SEED + courses):
        (back if seed % HELD_COURSE == 0 else learned).append(course_squares(seed))
    return features_of(first, np.concatenate(learned)), features_of(first, np.concatenate(back))


def phantom_squares(count: int, first_seed: int) -> NDArray[np.uint8]:
    """Current and prior films of phantom pairs, as the classifier sees them."""
    squares = []
    for seed in range(first_seed, first_seed + count // 2):
        for film in render_pair(sample_pair(seed), PHANTOM_SIDE, PHANTOM_SIDE):
            squares.append(fit(from_grey(film.pixels), SIDE))
    return np.stack(squares)


def course_squares(seed: int, films: tuple[int, int] = COURSE_FILMS) -> NDArray[np.uint8]:
    """The films of a phantom course, written as DICOM and read as a node reads them; films: fewest and most."""
    with tempfile.TemporaryDirectory() as folder:
        options = ClinicalOptions(films=films)
        course = write_course(Path(folder), seed, options=options, long_side=PHANTOM_SIDE)
        return np.stack([fit(load_display_image(study.files[0]), SIDE) for study in course.studies])
