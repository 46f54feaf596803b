"""Phantoms as a data set like any other: by seed, rendered when they are shown, or from a cache of rendered films.

A pair gives one record. A clinical course gives one for each film but the first: that film is current, those before it
are earlier, and what the next film will show is the record's future; the next film itself is no part of the record.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError, PixelError
from model.images.display import from_grey
from model.schema import DisplayImage, PatientContext
from training.phantom.cache import Shard, draw_course, read_shard, read_shards
from training.phantom.course import ClinicalOptions, sample_course
from training.phantom.render import render
from training.phantom.sampling import PairOptions
from training.phantom.scene import PhantomCourse, PhantomFilm
from training.phantom.truth import truth_of_phantom
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record, Split
from training.records.truth import PairTruth

HELD_OUT_SEED = 9_000_000
"""First seed of the phantoms that only evaluation uses; training uses seeds below it."""
PHANTOM_SIDE = 320
"""Longer side of phantom films rendered for evaluation, pixels."""
PAIR, COURSE, CACHED = "phantom/", "phantom-course/", "phantom-cache/"
"""Prefix of the keys of phantom images."""
_FIRST_DAY = dt.date(2026, 1, 5)


def read_phantom_pairs(
    count: int, report: DropReport, *, first_seed: int = HELD_OUT_SEED, split: Split = Split.TEST
) -> Iterator[Record]:
    """Phantom pairs with exact truth, by seed."""
    for seed in range(first_seed, first_seed + count):
        keys = [f"{PAIR}{seed}/{role}" for role in ("prior", "current")]
        report.keep()
        yield _pair_record(draw_course(seed, PairOptions()), f"phantom/{seed}", keys, [f"{seed}p", f"{seed}c"], split)


def read_phantom_courses(
    count: int, report: DropReport, *, first_seed: int = HELD_OUT_SEED, split: Split = Split.TEST
) -> Iterator[Record]:
    """Clinical courses with exact truth, by seed; a record for each film but the first."""
    for seed in range(first_seed, first_seed + count):
        course = sample_course(seed)
        keys = [f"{COURSE}{seed}/{number}" for number in range(len(course.films))]
        for record in course_records(course, f"{COURSE}{seed}", keys, split):
            report.keep()
            yield record


def read_phantom_cache(folder: Path, report: DropReport) -> Iterator[Record]:
    """The pairs and courses of a cache folder. Raises DataError where there is none, or a shard is not readable."""
    try:
        shards = read_shards(folder)
    except ModelError as error:
        raise DataError(str(error)) from error
    if not shards:
        raise DataError(f"{folder}: no phantoms; make them with python -m training.phantom.cache {folder}")
    for shard in shards:
        first = 0
        for index, count in enumerate(shard.films):
            course = shard.course(index)
            keys = [f"{CACHED}{shard.path}#{first + number}" for number in range(count)]
            first += count
            for record in _read_shard(shard, index, course, keys):
                report.keep()
                yield record


def _read_shard(shard: Shard, index: int, course: PhantomCourse, keys: Sequence[str]) -> Iterator[Record]:
    name = f"{CACHED}{shard.path.stem}/{index}"
    if isinstance(shard.options, ClinicalOptions):
        yield from course_records(course, name, keys, Split.TRAIN)
        return
    ids = [f"{name}/{number}" for number in range(2)]
    record = _pair_record(course, name, keys, ids, Split.TRAIN)
    # Over a film of a person, a finding that the film is not labelled for is known only where the phantom drew it.
    hidden = shard.unknown - (set(course.films[0].states) & set(course.films[1].states))
    yield replace(record, truth=_without(record.truth, hidden))


def _without(truth: PairTruth, unknown: frozenset[str]) -> PairTruth:
    kept = {key: value for key, value in truth.findings.items() if key not in unknown}
    return truth if not unknown else replace(truth, findings=kept)


def _pair_record(course: PhantomCourse, name: str, keys: Sequence[str], ids: Sequence[str], split: Split) -> Record:
    prior, current = (
        ImageRef(key=key, image_id=image_id, view=film.acquisition.view)
        for key, image_id, film in zip(keys, ids, course.films, strict=True)
    )
    return Record(truth=truth_of_phantom(course.pair(), name), current=current, prior=prior, split=split)


def course_records(course: PhantomCourse, name: str, keys: Sequence[str], split: Split) -> Iterator[Record]:
    """A record for each film but the first; keys: of the films' images, in order."""
    images = [
        ImageRef(
            key=key,
            image_id=f"{name}/{number}",
            view=film.acquisition.view,
            when=(_FIRST_DAY + dt.timedelta(days=film.day)).isoformat(),
        )
        for number, (key, film) in enumerate(zip(keys, course.films, strict=True))
    ]
    for number in range(1, len(images)):
        following = number + 1 < len(images)
        yield Record(
            truth=truth_of_phantom(course.pair(number), f"{name}/{number}"),
            current=images[number],
            prior=images[number - 1],
            earlier=tuple(images[: number - 1]),
            context=_chart(course.films[number]),
            future=truth_of_phantom(course.pair(number + 1), f"{name}/{number}/future") if following else None,
            split=split,
        )


def _chart(film: PhantomFilm) -> PatientContext:
    return PatientContext(labs=dict(film.labs), treatments=film.treatments)


# --- images ---


def is_phantom(key: str) -> bool:
    """True if an image's key names a phantom."""
    return key.startswith((PAIR, COURSE, CACHED))


def load_phantom_image(key: str) -> DisplayImage:
    """The display image of a phantom's key. Raises PixelError where a cache no longer holds it."""
    if key.startswith(CACHED):
        return from_grey(read_picture(key).astype(np.float32) / 255)
    course, number = _course_of_key(key)
    film = course.films[number]
    rows, columns = film.acquisition.shape(PHANTOM_SIDE)
    return from_grey(
        render(course.patient, film.states, film.acquisition, rows, columns).pixels, view=film.acquisition.view
    )


@lru_cache(maxsize=64)
def _course_of_key(key: str) -> tuple[PhantomCourse, int]:
    kind = COURSE if key.startswith(COURSE) else PAIR
    seed, _, film = key.removeprefix(kind).partition("/")
    if kind == COURSE:
        return sample_course(int(seed)), int(film)
    return draw_course(int(seed), PairOptions()), 0 if film == "prior" else 1


@lru_cache(maxsize=256)
def _map_file(path: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    shard = read_shard(Path(path).with_suffix(".json"))
    return shard.pixels(), shard.marks()


def _find_cached(key: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None, int]:
    path, _, number = key.removeprefix(CACHED).rpartition("#")
    try:
        pixels, marks = _map_file(path)
    except ModelError as error:
        raise PixelError(f"the phantom cache cannot be read: {error}") from error
    if int(number) >= len(pixels):
        raise PixelError(f"{path} holds {len(pixels)} films and not number {number}")
    return pixels, marks, int(number)


def read_picture(key: str) -> NDArray[np.uint8]:
    """The square picture uint8 [size, size] of a cached film."""
    pixels, _, number = _find_cached(key)
    return np.asarray(pixels[number])


def read_marks(key: str) -> NDArray[np.uint8] | None:
    """Where the findings lie on a film, uint8 [findings, side, side]; None where nobody wrote it down."""
    if not key.startswith(CACHED):
        return None
    _, marks, number = _find_cached(key)
    return None if marks is None else np.asarray(marks[number])
