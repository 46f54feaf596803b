"""Pre-rendered phantom pairs on disk: pixels in memory-mapped shards, the truth recomputed from the seeds.

    python -m training.phantom.cache FOLDER --pairs 24000 --first-seed 1000000 --size 160

A shard is `NAME.npy` (uint8 [pairs, 2, size, size], prior first) beside `NAME.json` (first seed, options, how it was
drawn). A shard counts only once its JSON is there: it is written last, so that readers may look while others write.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from model.errors import ModelError
from model.images.square import fit_grey
from training.phantom.render import (
    PHANTOM_FINDINGS,
    PairOptions,
    PhantomPair,
    composite,
    finding_marks,
    render,
    sample_pair,
)
from training.phantom.scene import UNGRADED
from training.phantom.texture import Plane

FORMAT = 1
MARK_SIDE = 20
"""Raster of the stored outlines of the findings."""
FINE_SHARE = 0.2
"""Share of the pairs rendered at twice the size and reduced, as a real film is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One shard on disk. backgrounds: names of the real films its pairs lie over, empty for pure phantoms."""

    path: Path
    first_seed: int
    pairs: int
    size: int
    options: PairOptions
    backgrounds: tuple[str, ...] = ()

    @property
    def unknown(self) -> frozenset[str]:
        """Findings that may be on a film without the phantom's doing: those that its background is not labelled for."""
        return frozenset(UNGRADED) if self.backgrounds else frozenset()

    def pair(self, index: int) -> PhantomPair:
        """The truth of one pair."""
        return sample_pair(self.first_seed + index, self.options)

    def pixels(self) -> NDArray[np.uint8]:
        """The images, mapped and not read: uint8 [pairs, 2, size, size]."""
        mapped: NDArray[np.uint8] = np.load(self.path, mmap_mode="r")
        return mapped

    def marks(self) -> NDArray[np.uint8] | None:
        """Where the findings lie, mapped: uint8 [pairs, 2, findings, MARK_SIDE, MARK_SIDE]; None where not made."""
        path = self.path.with_suffix(".marks")
        return np.load(path, mmap_mode="r") if path.exists() else None


def film_pixels(pair: PhantomPair, size: int, *, fine: bool = False) -> NDArray[np.uint8]:
    """Both films as the model sees them, uint8 [2, size, size], prior first."""
    out = np.empty((2, size, size), np.uint8)
    for place, (states, film) in enumerate(((pair.prior, pair.prior_film), (pair.current, pair.current_film))):
        rows, columns = film.shape(size * 2 if fine else size)
        out[place] = fit_grey(render(pair.patient, states, film, rows, columns).pixels, size)
    return out


def composite_pixels(pair: PhantomPair, backgrounds: tuple[Plane, Plane], size: int) -> NDArray[np.uint8]:
    """The findings of a pair over two real films (prior, current), uint8 [2, size, size]."""
    out = np.empty((2, size, size), np.uint8)
    films = ((pair.prior, pair.prior_film), (pair.current, pair.current_film))
    for place, ((states, film), background) in enumerate(zip(films, backgrounds, strict=True)):
        out[place] = fit_grey(composite(background, pair.patient, states, film), size)
    return out


def pair_marks(pair: PhantomPair) -> NDArray[np.uint8]:
    """Opacity (0..255) of every finding on both films over the model's square: uint8 [2, findings, side, side]."""
    out = np.zeros((2, len(PHANTOM_FINDINGS), MARK_SIDE, MARK_SIDE), np.uint8)
    fine = 2 * MARK_SIDE
    for place, (states, film) in enumerate(((pair.prior, pair.prior_film), (pair.current, pair.current_film))):
        rows, columns = film.shape(fine)
        top, left = (fine - rows) // 2, (fine - columns) // 2
        for key, plane in finding_marks(pair.patient, states, film, rows, columns).items():
            square = np.zeros((fine, fine), np.float32)
            square[top : top + rows, left : left + columns] = plane
            coarse = square.reshape(MARK_SIDE, 2, MARK_SIDE, 2).max((1, 3))
            out[place, PHANTOM_FINDINGS.index(key)] = np.clip(coarse * 255, 0, 255)
    return out


def write_marks(shard: Shard) -> None:
    """Write the outlines of a shard beside its pixels, in one step."""
    marks = np.stack([pair_marks(shard.pair(index)) for index in range(shard.pairs)])
    temporary = shard.path.with_suffix(".marks.tmp")
    with temporary.open("wb") as stream:
        np.save(stream, marks)
    temporary.replace(shard.path.with_suffix(".marks"))


def write_shard(
    folder: Path,
    name: str,
    *,
    first_seed: int,
    pairs: int,
    size: int,
    options: PairOptions | None = None,
    backgrounds: Sequence[tuple[str, tuple[Plane, Plane]]] = (),
) -> Shard:
    """Render one shard; with `backgrounds`, each pair over one of them in turn."""
    options = options or PairOptions()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.npy"
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (pairs, 2, size, size))
    for index in range(pairs):
        pair = sample_pair(first_seed + index, options)
        if backgrounds:
            pixels[index] = composite_pixels(pair, backgrounds[index % len(backgrounds)][1], size)
        else:
            fine = np.random.default_rng([first_seed + index, 4]).random() < FINE_SHARE
            pixels[index] = film_pixels(pair, size, fine=bool(fine))
    pixels.flush()
    names = [background for background, _ in backgrounds]
    about = {"format": FORMAT, "first_seed": first_seed, "pairs": pairs, "size": size, "backgrounds": names}
    (folder / f"{name}.json").write_text(json.dumps(about | {"options": asdict(options)}) + "\n", "utf-8")
    return read_shard(folder / f"{name}.json")


def read_shard(path: Path) -> Shard:
    """Read one shard's JSON; raises ModelError where it or its pixels are not what they say."""
    try:
        about = json.loads(path.read_text("utf-8"))
        shard = Shard(
            path=path.with_suffix(".npy"),
            first_seed=about["first_seed"],
            pairs=about["pairs"],
            size=about["size"],
            options=PairOptions(**about["options"]),
            backgrounds=tuple(about["backgrounds"]),
        )
        shape = shard.pixels().shape
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a readable phantom shard ({error})") from error
    if about["format"] != FORMAT or shape != (shard.pairs, 2, shard.size, shard.size):
        raise ModelError(f"{path}: format {about['format']}, pixels {shape}; expected {FORMAT} and {shard.pairs} pairs")
    return shard


def read_shards(folder: Path) -> list[Shard]:
    """All finished shards of a folder, by name."""
    return [read_shard(path) for path in sorted(folder.glob("*.json"))]


def fill(
    folder: Path, *, pairs: int, first_seed: int, size: int, shard_pairs: int = 500, prefix: str = "pairs"
) -> None:
    """Write shards until `pairs` pairs are there; shards that are finished already are left alone."""
    for number, start in enumerate(range(0, pairs, shard_pairs)):
        name = f"{prefix}-{first_seed}-{number:04d}"
        if not (folder / f"{name}.json").exists():
            write_shard(folder, name, first_seed=first_seed + start, pairs=min(shard_pairs, pairs - start), size=size)
        shard = read_shard(folder / f"{name}.json")
        if shard.marks() is None:
            write_marks(shard)


def main(
    folder: Path,
    pairs: Annotated[int, typer.Option(help="how many pairs")] = 24_000,
    first_seed: Annotated[int, typer.Option(help="seed of the first pair; the others follow")] = 1_000_000,
    size: Annotated[int, typer.Option(help="side of the square images, pixels")] = 160,
) -> None:
    """Render phantom pairs into FOLDER."""
    fill(folder, pairs=pairs, first_seed=first_seed, size=size)


if __name__ == "__main__":
    typer.run(main)
