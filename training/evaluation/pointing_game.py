"""Does the model look where the finding is? The pointing game on phantoms, whose outlines are known exactly.

`python -m training.evaluation.pointing_game CHECKPOINT` prints a table and the value for `Manifest.localisation`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.checkpoints.files import MANIFEST_NAME
from model.checkpoints.manifest import read_manifest
from model.engine.vlm import Vlm, open_vlm
from model.images.display import from_grey
from model.localise.outline import outlines, peak
from model.localise.relevance import Localiser, Method, read_outline_head
from model.schema import DisplayImage, ImageRole, StudyPair
from training.phantom.render import PHANTOM_FINDINGS, Rendered, render_pair, sample_pair

FIRST_SEED = 3_000_000
"""Far from the seeds of training, validation and the view check."""
LONG_SIDE = 448
MARGIN = 2.0
"""A finding is localised where the hits' lower 95 % limit is at least this many times chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointing:
    """One finding: how often the most relevant point lay inside the true outline.

    shown: true findings on current images. hits: points inside the true outline, or not further from it than half a
    cell of the model's grid. chance: mean share of the film that counts as a hit. overlap: mean intersection over
    union of the bounding boxes of drawn and true outline, 0 where nothing was drawn.
    """

    shown: int
    hits: int
    chance: float
    overlap: float

    @property
    def share(self) -> float:
        return self.hits / self.shown if self.shown else 0.0

    @property
    def lower(self) -> float:
        """Lower limit of the 95 % Wilson interval of the share."""
        if not self.shown:
            return 0.0
        n, z = self.shown, 1.96
        # Wilson's interval: where all of a few rounds hit, the plain normal one would be 1.0 to 1.0.
        middle = self.share + z * z / (2 * n)
        spread = z * math.sqrt(self.share * (1 - self.share) / n + z * z / (4 * n * n))
        return (middle - spread) / (1 + z * z / n)

    @property
    def is_localised(self) -> bool:
        """Clearly better than pointing blindly, and at least every second time right."""
        return self.lower >= MARGIN * self.chance and self.share >= 0.5


def measure_pointing(
    localiser: Localiser,
    vlm: Vlm,
    findings: Sequence[str],
    seeds: Iterable[int],
    *,
    cells: int,
    long_side: int = LONG_SIDE,
) -> dict[str, Pointing]:
    """Play the pointing game on the current images of phantom pairs. cells: side of the model's grid."""
    hits: dict[str, list[tuple[bool, float, float]]] = {key: [] for key in findings}
    for seed in seeds:
        pair = sample_pair(seed)
        prior, current = render_pair(pair, long_side, long_side, masks=True)
        study = StudyPair(current=from_grey(current.pixels), prior=from_grey(prior.pixels))
        # Only what is drawn on the current film: of other findings there is nothing to hit.
        shown = [key for key in findings if key in pair.current and current.box(key) is not None]
        maps = localiser.heatmaps(study, [(key, ImageRole.CURRENT) for key in shown])
        for key in shown:
            if (key, ImageRole.CURRENT) in maps:
                grid = maps[key, ImageRole.CURRENT].grid
                hits[key].append(_round(grid, study.current, current, key, vlm.image_size, cells))
    return {
        key: Pointing(
            shown=len(rounds),
            hits=sum(hit for hit, _, _ in rounds),
            chance=float(np.mean([chance for _, chance, _ in rounds])) if rounds else 0.0,
            overlap=float(np.mean([overlap for _, _, overlap in rounds])) if rounds else 0.0,
        )
        for key, rounds in hits.items()
    }


def localisation_of(table: Mapping[str, Pointing]) -> dict[str, float]:
    """The value for `Manifest.localisation`: findings that are localised clearly better than by chance."""
    return {key: round(score.share, 4) for key, score in table.items() if score.is_localised}


def _round(
    grid: NDArray[np.float32], image: DisplayImage, film: Rendered, key: str, size: int, cells: int
) -> tuple[bool, float, float]:
    """(hit, chance, overlap) of one finding on one film."""
    mask = film.masks[key]
    rows, columns = mask.shape
    # Half a cell of the model's grid: it cannot point more finely than that.
    reach = max(1, round(max(image.geometry.height, image.geometry.width) / cells / 2))
    near = _dilate(mask, reach)
    column, row = peak(grid, image, size)
    hit = bool(near[min(max(int(row), 0), rows - 1), min(max(int(column), 0), columns - 1)])
    kept = np.s_[
        image.geometry.top : image.geometry.top + image.geometry.height,
        image.geometry.left : image.geometry.left + image.geometry.width,
    ]
    box = film.box(key)
    assert box is not None
    truth = (box[0] * columns, box[1] * rows, box[2] * columns, box[3] * rows)
    drawn = [point for polygon in outlines(grid, image, size) for point in polygon]
    # Chance is the share of the radiograph that counts as a hit; padding is no place to point to.
    return hit, float(near[kept].mean()), _overlap(drawn, truth)


def _dilate(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    grown: NDArray[np.bool_] = ndimage.binary_dilation(mask, iterations=reach)
    return grown


def _overlap(points: Sequence[tuple[float, float]], truth: tuple[float, float, float, float]) -> float:
    """Intersection over union of the bounding box of the points and the true one."""
    if not points:
        return 0.0
    xs, ys = [x for x, _ in points], [y for _, y in points]
    ours = (min(xs), min(ys), max(xs), max(ys))
    # Negative where the boxes do not meet; two negative sides must not multiply to an area.
    width = min(ours[2], truth[2]) - max(ours[0], truth[0])
    height = min(ours[3], truth[3]) - max(ours[1], truth[1])
    shared = max(width, 0.0) * max(height, 0.0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (ours, truth))
    return shared / (area - shared) if area > shared else 0.0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--method", choices=[method.name for method in Method])
    parser.add_argument("--findings", nargs="*", help="in training order; default: the manifest's, else all phantom's")
    options = parser.parse_args()
    findings = tuple(options.findings or _findings_of(options.checkpoint))
    vlm = open_vlm(options.checkpoint)
    head = read_outline_head(options.checkpoint, findings)
    method = Method[options.method] if options.method else None
    localiser = Localiser(vlm, head=head, measured=dict.fromkeys(findings, 0.0), method=method)
    seeds = range(FIRST_SEED, FIRST_SEED + options.pairs)
    config = vlm.model.config
    cells = config.tile_side // config.vision_config.patch_size
    table = measure_pointing(localiser, vlm, findings, seeds, cells=cells)
    for key, score in table.items():
        print(
            f"{key:24} {score.hits:4}/{score.shown:<4} {score.share:.2f} chance {score.chance:.2f} "
            f"overlap {score.overlap:.2f}"
        )
    print(json.dumps({"method": localiser.method.value, "localisation": localisation_of(table)}))
    print(json.dumps({key: asdict(score) for key, score in table.items()}))


def _findings_of(folder: Path) -> tuple[str, ...]:
    if (folder / MANIFEST_NAME).is_file():
        return read_manifest(folder).findings
    return tuple(PHANTOM_FINDINGS)


if __name__ == "__main__":
    main()
