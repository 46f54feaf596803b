"""Pre-rendered phantom courses on disk: pixels in memory-mapped shards, the truth recomputed from the seeds.

    python -m training.phantom.cache FOLDER --pairs 24000 --first-seed 1000000 --size 160
    python -m training.phantom.cache FOLDER --courses 3000 --first-seed 3000000 --size 224

A shard is `NAME.npy` (uint8 [films, size, size], the films of one course after another, oldest first) beside
`NAME.json` (first seed, options, films of each course, how it was drawn). A shard counts only once its JSON is there,
which is written last: readers may look while others write.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from model.errors import ModelError
from model.images.square import fit_grey
from training.phantom.course import ClinicalOptions, sample_course
from training.phantom.render import PHANTOM_FINDINGS, PairOptions, composite, finding_marks, render, sample_pair
from training.phantom.scene import UNGRADED, PhantomCourse, PhantomFilm, PhantomPatient
from training.phantom.texture import Plane

FORMAT = 2
PAIRS_FORMAT = 1
"""Of shards that held pairs only: pixels [pairs, 2, size, size], outlines [pairs, 2, findings, side, side]."""
MARK_SIDE = 20  # raster of the stored outlines of the findings
FINE_SHARE = 0.2  # of the courses, rendered at twice the size and reduced, as a real film is
Options = PairOptions | ClinicalOptions


def draw_course(seed: int, options: Options) -> PhantomCourse:
    """A course by its options: a pair with evenly drawn changes, or a clinical course."""
    return sample_pair(seed, options).course if isinstance(options, PairOptions) else sample_course(seed, options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One shard on disk. films: of each course. backgrounds: names of the real films that its pairs lie over, empty for
    pure phantoms."""

    path: Path
    first_seed: int
    films: tuple[int, ...]
    size: int
    options: Options
    backgrounds: tuple[str, ...] = ()

    @property
    def courses(self) -> int:
        """The number of courses."""
        return len(self.films)

    @property
    def unknown(self) -> frozenset[str]:
        """Findings that may be on a film without the phantom's doing: those that its background is not labelled for."""
        return frozenset(UNGRADED) if self.backgrounds else frozenset()

    def course(self, index: int) -> PhantomCourse:
        """The truth of one course."""
        return draw_course(self.first_seed + index, self.options)

    def start(self, index: int) -> int:
        """The number of a course's first film."""
        return sum(self.films[:index])

    def pixels(self) -> NDArray[np.uint8]:
        """The images, mapped and not read: uint8 [films, size, size]."""
        mapped: NDArray[np.uint8] = np.load(self.path, mmap_mode="r")
        return mapped.reshape(-1, *mapped.shape[-2:])

    def marks(self) -> NDArray[np.uint8] | None:
        """Where the findings lie, mapped: uint8 [films, findings, MARK_SIDE, MARK_SIDE]; None where not made."""
        path = self.path.with_suffix(".marks")
        if not path.exists():
            return None
        mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        return mapped.reshape(-1, *mapped.shape[-3:])


def film_pixels(patient: PhantomPatient, film: PhantomFilm, size: int, *, fine: bool = False) -> NDArray[np.uint8]:
    """One film as the model sees it, uint8 [size, size]."""
    rows, columns = film.acquisition.shape(size * 2 if fine else size)
    return fit_grey(render(patient, film.states, film.acquisition, rows, columns).pixels, size)


def film_marks(patient: PhantomPatient, film: PhantomFilm) -> NDArray[np.uint8]:
    """Opacity (0..255) of every finding on one film over the model's square: uint8 [findings, side, side]."""
    out = np.zeros((len(PHANTOM_FINDINGS), MARK_SIDE, MARK_SIDE), np.uint8)
    fine = 2 * MARK_SIDE
    rows, columns = film.acquisition.shape(fine)
    top, left = (fine - rows) // 2, (fine - columns) // 2
    for key, plane in finding_marks(patient, film.states, film.acquisition, rows, columns).items():
        square = np.zeros((fine, fine), np.float32)
        square[top : top + rows, left : left + columns] = plane
        coarse = square.reshape(MARK_SIDE, 2, MARK_SIDE, 2).max((1, 3))  # not the mean: a thin line must not fade
        out[PHANTOM_FINDINGS.index(key)] = np.clip(coarse * 255, 0, 255)
    return out


def write_marks(shard: Shard) -> None:
    """Write the outlines of a shard beside its pixels, in one step."""
    courses = (shard.course(index) for index in range(shard.courses))
    marks = np.stack([film_marks(course.patient, film) for course in courses for film in course.films])
    temporary = shard.path.with_suffix(".marks.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, marks)
    temporary.replace(shard.path.with_suffix(".marks"))


def write_shard(
    folder: Path,
    name: str,
    *,
    first_seed: int,
    courses: int,
    size: int,
    options: Options | None = None,
    backgrounds: Sequence[tuple[str, tuple[Plane, Plane]]] = (),
    note: Callable[[], None] = lambda: None,
) -> Shard:
    """Render one shard; with `backgrounds`, each pair over one of them in turn. note: called after each course."""
    options = options or PairOptions()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.npy"
    drawn = [draw_course(first_seed + index, options) for index in range(courses)]
    films = [len(course.films) for course in drawn]
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (sum(films), size, size))
    row = 0
    for index, course in enumerate(drawn):
        planes = backgrounds[index % len(backgrounds)][1] if backgrounds else None
        for picture in _course_pictures(course, first_seed + index, size, planes):
            pixels[row] = picture
            row += 1
        note()
    pixels.flush()
    about = {
        "format": FORMAT,
        "first_seed": first_seed,
        "films": films,
        "size": size,
        "backgrounds": [background for background, _ in backgrounds],
        "process": "pairs" if isinstance(options, PairOptions) else "clinical",
        "options": asdict(options),
    }
    # Written last: pixels without their JSON are half a shard, and are not read.
    (folder / f"{name}.json").write_text(json.dumps(about) + "\n", "utf-8")
    return read_shard(folder / f"{name}.json")


def _course_pictures(
    course: PhantomCourse, seed: int, size: int, planes: tuple[Plane, Plane] | None
) -> Iterator[NDArray[np.uint8]]:
    # From the course's own seed: a course looks the same whatever shard it falls into.
    fine = bool(np.random.default_rng([seed, 4]).random() < FINE_SHARE)
    for number, film in enumerate(course.films):
        if planes is not None:
            yield fit_grey(composite(planes[number], course.patient, film.states, film.acquisition), size)
        else:
            yield film_pixels(course.patient, film, size, fine=fine)


def read_shard(path: Path) -> Shard:
    """Read one shard's JSON; raises ModelError where it or its pixels are not what they say."""
    try:
        about = json.loads(path.read_text("utf-8"))
        clinical = about.get("process", "pairs") == "clinical"
        options = about["options"]
        shard = Shard(
            path=path.with_suffix(".npy"),
            first_seed=about["first_seed"],
            films=(2,) * about["pairs"] if about["format"] == PAIRS_FORMAT else tuple(about["films"]),
            size=about["size"],
            options=ClinicalOptions(films=tuple(options["films"]), strength=options["strength"])
            if clinical
            else PairOptions(**options),
            backgrounds=tuple(about["backgrounds"]),
        )
        shape = shard.pixels().shape
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a readable phantom shard ({error})") from error
    if about["format"] not in (FORMAT, PAIRS_FORMAT) or shape != (sum(shard.films), shard.size, shard.size):
        raise ModelError(
            f"{path}: format {about['format']}, pixels {shape}; expected format {FORMAT} and {sum(shard.films)} films"
        )
    return shard


def read_shards(folder: Path) -> list[Shard]:
    """All finished shards of a folder, by name."""
    return [read_shard(path) for path in sorted(folder.glob("*.json"))]


@dataclass(slots=True, kw_only=True)
class PhantomCache:
    """All courses of a folder by number. Raises ModelError where there is none."""

    folder: Path
    _shards: list[Shard] = field(init=False)
    _starts: NDArray[np.int64] = field(init=False)
    _mapped: dict[Path, tuple[NDArray[np.uint8], NDArray[np.uint8] | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._shards = read_shards(self.folder)
        if not self._shards:
            raise ModelError(f"{self.folder}: no phantoms; make them with python -m training.phantom.cache")
        self._starts = np.cumsum([0, *(shard.courses for shard in self._shards)])

    @property
    def courses(self) -> int:
        """The number of courses."""
        return int(self._starts[-1])

    def course(self, index: int) -> tuple[PhantomCourse, NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Truth, films uint8 [films, size, size] and outlines of one course."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard = self._shards[number]
        # Mapped, not read: the workers of a data loader share the pages, and a cache may be larger than the memory.
        if shard.path not in self._mapped:
            self._mapped[shard.path] = (shard.pixels(), shard.marks())
        course_number = index - int(self._starts[number])
        pixels, marks = self._mapped[shard.path]
        part = slice(shard.start(course_number), shard.start(course_number + 1))
        return shard.course(course_number), np.asarray(pixels[part]), None if marks is None else np.asarray(marks[part])


def fill(
    folder: Path,
    *,
    pairs: int,
    first_seed: int,
    size: int,
    shard_pairs: int = 500,
    prefix: str = "pairs",
    options: Options | None = None,
    note: Callable[[], None] = lambda: None,
) -> None:
    """Write shards until `pairs` pairs (or courses, by `options`) are there; finished shards are left alone.

    note: called after each course that is rendered.
    """
    for number, start in enumerate(range(0, pairs, shard_pairs)):
        name = f"{prefix}-{first_seed}-{number:04d}"
        count = min(shard_pairs, pairs - start)
        # The JSON is written last, so a shard that a killed run left half-written is rendered again.
        if not (folder / f"{name}.json").exists():
            seed = first_seed + start
            write_shard(folder, name, first_seed=seed, courses=count, size=size, options=options, note=note)
        shard = read_shard(folder / f"{name}.json")
        if shard.marks() is None:
            write_marks(shard)


LINE_SECONDS = 10.0  # between two lines of progress


class _Countdown:
    """Prints how many are rendered and the time left: after the first, then a line every ten seconds."""

    def __init__(self, total: int) -> None:
        self.done, self.total, self.spoken = 0, total, 0.0
        self.started = time.perf_counter()

    def __call__(self) -> None:
        self.done += 1
        now = time.perf_counter()
        if self.done == 1 or now - self.spoken >= LINE_SECONDS:
            self.spoken = now
            left = (now - self.started) / self.done * (self.total - self.done)
            print(f"rendering {self.done} of {self.total}, {left:.0f} s left", flush=True)


def main(
    folder: Path,
    pairs: Annotated[int, typer.Option(help="how many pairs")] = 24_000,
    courses: Annotated[int, typer.Option(help="clinical courses of several films instead of pairs")] = 0,
    first_seed: Annotated[int, typer.Option(help="seed of the first one; the others follow")] = 1_000_000,
    size: Annotated[int, typer.Option(help="side of the square images, pixels")] = 160,
) -> None:
    """Render phantom pairs or courses into FOLDER."""
    options, prefix, shard_pairs = (ClinicalOptions(), "courses", 100) if courses else (None, "pairs", 500)
    places = {"first_seed": first_seed, "size": size, "shard_pairs": shard_pairs}
    fill(folder, pairs=courses or pairs, **places, prefix=prefix, options=options, note=_Countdown(courses or pairs))


if __name__ == "__main__":
    typer.run(main)
