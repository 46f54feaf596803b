"""Fit the plane of chest films for `model.checks.plausibility`, and count what its limits refuse; `--data DIR --out
FILE`.

A principal component analysis of coarse squares: the films of the split "train", each also moved and re-exposed three
times, and phantoms. Prints what films, phantoms and other things measure; `--measure` fits nothing.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from model.checks.frontal_view import check_view
from model.checks.plausibility import PictureMeasures, coarse_square, measure, normalise, picture_fault
from model.images.display import from_grey
from training.image_checks.drawn_pictures import Grey
from training.image_checks.view_check_data import OTHER_FAMILIES, expose_film, lateral_sample, move_film, other_sample
from training.image_checks.view_check_train import frontals, phantoms

COMPONENTS = 40
MOVED = 3
"""Moved and re-exposed copies of each film."""


def fit_plane(films: Sequence[Grey], rng: np.random.Generator, synthetic: Sequence[Grey] = ()) -> dict[str, Any]:
    """mean [SIDE²] and basis [COMPONENTS, SIDE²] in half precision, as they are stored."""
    copies = [expose_film(move_film(film, rng), rng) for film in films for _ in range(MOVED)]
    table = np.array([normalise(coarse_square(picture)).ravel() for picture in (*films, *copies, *synthetic)])
    mean = table.mean(axis=0)
    _, _, basis = np.linalg.svd(table - mean, full_matrices=False)
    return {"mean": mean.astype(np.float16), "basis": basis[:COMPONENTS].astype(np.float16)}


def patterns(rng: np.random.Generator) -> dict[str, Grey]:
    """One picture of each kind that no radiograph looks like, as a display image has it."""
    height, width = (int(side) for side in rng.integers(200, 600, 2))
    y, x = np.mgrid[:height, :width] / max(height, width)
    pictures: dict[str, Callable[[], NDArray[Any]]] = {
        "white noise": lambda: rng.random((height, width)),
        "Gaussian noise": lambda: np.clip(rng.normal(0.5, 0.15, (height, width)), 0, 1),
        "Poisson noise": lambda: np.clip(rng.poisson(20, (height, width)) / 50, 0, 1),
        "blank": lambda: np.full((height, width), rng.random()),
        "blank with noise": lambda: np.clip(rng.random() + rng.normal(0, 0.01, (height, width)), 0, 1),
        "gradient": lambda: np.clip(x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1) + rng.random(), 0, 1),
        "steps of grey": lambda: np.floor(x * 10) / 10,
        "chequers": lambda: (np.floor(x * 8) + np.floor(y * 8)) % 2,
        "rings": lambda: 0.5 + 0.5 * np.cos(60 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)),
        "grid": lambda: ((x * 20 % 1 < 0.08) | (y * 20 % 1 < 0.08)).astype(np.float64),
    }
    return {name: from_grey(draw().astype(np.float32)).pixels for name, draw in pictures.items()}


def count_refused(pictures: Sequence[Grey]) -> str:
    """ "n/N" and for what."""
    faults = [picture_fault(picture, _other(picture)) for picture in pictures]
    counts = Counter(str(fault) for fault in faults if fault is not None)
    counted = ", ".join(f"{fault} {count}" for fault, count in sorted(counts.items()))
    return f"{sum(counts.values())}/{len(pictures)}" + (f" ({counted})" if counted else "")


def _other(picture: Grey) -> float:
    return check_view(from_grey(picture, crop=False)).other_probability


def extremes(pictures: Sequence[Grey], plane: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """The measures of these pictures that come nearest to a limit."""
    full = {name: value.astype(np.float32) for name, value in plane.items()}
    measures: list[PictureMeasures] = [measure(picture, full) for picture in pictures]
    return {
        "least contrast": round(min(m.contrast for m in measures), 3),
        "least coarse": round(min(m.coarse for m in measures), 3),
        "least detail": round(min(m.detail for m in measures), 3),
        "most strange": round(max(m.strange for m in measures), 3),
        "most other": round(max(_other(picture) for picture in pictures), 4),
    }


def report(data: Path, plane: Mapping[str, NDArray[Any]], *, drawn: int = 100, seed: int = 99) -> dict[str, Any]:
    """Refused films (there should be none), refused other things, and how near films come to the limits."""
    rng = np.random.default_rng(seed)
    train, dev = frontals(data, "train"), frontals(data, "dev")
    shaken = [expose_film(move_film(film, rng), rng) for film in dev for _ in range(MOVED)]
    turned = [np.rot90(film, turn).copy() for film in dev for turn in (1, 2, 3)]
    chests = {
        "films of train": train,
        "films of dev": dev,
        "… moved and re-exposed": shaken,
        "… turned": turned,
        "… inverted": [1 - film for film in dev],
        "phantoms": phantoms(100, seed=2_000_000),
    }
    result: dict[str, Any] = {name: count_refused(films) for name, films in chests.items()}
    result["limits approached by films of train"] = extremes(train, plane)
    result["limits approached by films of dev"] = extremes(dev, plane)
    shown = [patterns(rng) for _ in range(drawn)]
    for name in shown[0]:
        result[name] = count_refused([pictures[name] for pictures in shown])
    for name in OTHER_FAMILIES:
        result[f"drawn: {name}"] = count_refused(
            [other_sample(dev[i % len(dev)], rng, (name,)).pixels for i in range(drawn)]
        )
    result["drawn: lateral chests"] = count_refused([lateral_sample(rng).pixels for _ in range(drawn)])
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measure", action="store_true", help="only measure the plane at --out")
    options = parser.parse_args()
    if not options.measure:
        rng = np.random.default_rng(0)
        save_file(fit_plane(frontals(options.data, "train"), rng, phantoms(200, seed=1_000_000)), options.out)
    print(json.dumps(report(options.data, load_file(options.out)), indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
