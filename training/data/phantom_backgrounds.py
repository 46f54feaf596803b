"""Phantom findings over films of people: shards of the phantom cache whose background is a real film without findings.

    python -m training.data.phantom_backgrounds CACHE --films nih:FOLDER --pairs 2000

Only films of the training split that are labelled for the phantom's graded findings and have none of them. A pair lies
over two films of one patient where there are two, else over one film twice. Devices and fractures of the films are not
labelled: such a finding is true where the phantom put it there and unknown everywhere else (`UNLABELLED`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from model.images.display import load_display_image
from model.schema import DisplayImage
from training.data.datasets import open_records, parse_spec
from training.phantom.cache import read_shard, write_marks, write_shard
from training.phantom.texture import Plane
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record, Split

FIRST_SEED = 5_000_000
SHARD_PAIRS = 250

Background = tuple[str, tuple[Plane, Plane]]


def clean_films(records: Iterable[Record]) -> dict[str, list[ImageRef]]:
    """Patient → the films of the training split on which every labelled finding is absent, in order of time."""
    films: dict[str, dict[str, ImageRef]] = defaultdict(dict)
    for record in records:
        if record.split is not Split.TRAIN:
            continue
        for image, states in (
            (record.prior, [finding.prior for finding in record.truth.findings.values()]),
            (record.current, [finding.current for finding in record.truth.findings.values()]),
        ):
            known = [state for state in states if state is not None]
            # At least one label and none of them positive: a film without labels is not known to be clean.
            if image is not None and known and not any(state.present for state in known):
                films[record.patient_id][image.image_id] = image
    return {
        patient: sorted(images.values(), key=lambda image: (image.when, image.image_id))
        for patient, images in sorted(films.items())
    }


def backgrounds(films: dict[str, list[ImageRef]]) -> list[Background]:
    """(names, (prior film, current film)): neighbours in time of one patient, or the only film twice."""
    pairs = []
    for images in films.values():
        neighbours = list(pairwise(images)) or [(images[0], images[0])]
        for prior, current in neighbours:
            planes = tuple(_plane(load_display_image(Path(image.key))) for image in (prior, current))
            pairs.append((f"{prior.image_id} {current.image_id}", (planes[0], planes[1])))
    return pairs


def _plane(image: DisplayImage) -> Plane:
    return np.asarray(image.pixels, np.float32)


def fill(folder: Path, chosen: list[Background], *, pairs: int, size: int, first_seed: int = FIRST_SEED) -> None:
    """Write shards of `pairs` pairs over the backgrounds in turn; finished shards are left alone."""
    if not chosen:
        raise DataError("no film of the training split is labelled free of findings")
    for number, start in enumerate(range(0, pairs, SHARD_PAIRS)):
        name = f"real-{first_seed}-{number:04d}"
        # Each shard begins where the one before it stopped, so that all backgrounds are used, whichever shards were
        # made when.
        turned = chosen[start % len(chosen) :] + chosen[: start % len(chosen)]
        if not (folder / f"{name}.json").exists():
            count = min(SHARD_PAIRS, pairs - start)
            write_shard(folder, name, first_seed=first_seed + start, courses=count, size=size, backgrounds=turned)
        shard = read_shard(folder / f"{name}.json")
        if shard.marks() is None:
            write_marks(shard)


def main(
    folder: Path,
    films: Annotated[str, typer.Option(help="data set with labels of single images, for example nih:FOLDER")],
    pairs: Annotated[int, typer.Option(help="how many pairs")] = 2_000,
    size: Annotated[int, typer.Option(help="side of the square images, pixels")] = 224,
) -> None:
    """Render phantom findings over real films into FOLDER."""
    report = DropReport()
    films_by_patient = clean_films(open_records(parse_spec(films), report))
    chosen = backgrounds(films_by_patient)
    print(f"{len(chosen)} backgrounds of {len(films_by_patient)} patients; {report}", flush=True)
    fill(folder, chosen, pairs=pairs, size=size)


if __name__ == "__main__":
    typer.run(main)
