"""Data sets by name for the commands: "phantom:200", "nih:FOLDER", "ms-cxr-t:FOLDER,IMAGES" → records and images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from model.errors import PixelError
from model.images.display import from_grey, load_display_image
from model.schema import DisplayImage, StudyPair
from training.phantom.render import render
from training.phantom.sampling import PairOptions, sample_pair
from training.phantom.truth import truth_of_phantom
from training.readers.diffvqa import read_medical_diff_vqa
from training.readers.hannover import read_hannover
from training.readers.mimic import dicom_path, jpg_path, read_mimic_cxr_jpg
from training.readers.mimic_dicom import read_mimic_cxr_dicom
from training.readers.mscxrt import read_ms_cxr_t
from training.readers.nih import read_nih
from training.readers.site import read_site
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record, Split

HELD_OUT_SEED = 9_000_000
"""First seed of the phantom pairs that only evaluation uses; training uses seeds below it."""
PHANTOM_SIDE = 320
"""Longer side of phantom films rendered for evaluation, pixels."""
_PHANTOM = "phantom/"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """What a data set's name on the command line means. source: a folder, file or count; images: image root or None."""

    kind: str
    source: str
    images: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.source}" + (f",{self.images}" if self.images else "")


def parse_spec(text: str) -> DataSpec:
    """Read "KIND:SOURCE" or "KIND:SOURCE,IMAGES"; raises DataError naming the kinds that there are."""
    kind, colon, rest = text.partition(":")
    if not colon or not rest or kind not in _KINDS:
        raise DataError(f"{text!r} names no data set; write one of: {', '.join(_USAGE[name] for name in _KINDS)}")
    source, comma, images = rest.partition(",")
    if bool(comma) != (kind in _WITH_IMAGES):
        raise DataError(f"{text!r}: write {_USAGE[kind]}")
    return DataSpec(kind=kind, source=source, images=images or None)


def open_records(spec: DataSpec, report: DropReport) -> Iterator[Record]:
    """The records of a data set, streaming; raises DataError where it cannot be read."""
    return _KINDS[spec.kind](spec, report)


def phantom_records(count: int, *, first_seed: int = HELD_OUT_SEED) -> Iterator[Record]:
    """Phantom pairs with exact truth, by seed; their images are rendered when they are loaded."""
    for seed in range(first_seed, first_seed + count):
        pair = sample_pair(seed, PairOptions())
        yield Record(
            truth=truth_of_phantom(pair, f"phantom/{seed}"),
            current=ImageRef(key=f"{_PHANTOM}{seed}/current", image_id=f"{seed}c", view=pair.current_film.view),
            prior=ImageRef(key=f"{_PHANTOM}{seed}/prior", image_id=f"{seed}p", view=pair.prior_film.view),
            split=Split.TEST,
        )


def load_image(image: ImageRef) -> DisplayImage:
    """The display image of a record's image: a file, or a phantom rendered from its seed. Raises PixelError."""
    if not image.key.startswith(_PHANTOM):
        return load_display_image(Path(image.key))
    seed, _, role = image.key.removeprefix(_PHANTOM).partition("/")
    pair = sample_pair(int(seed), PairOptions())
    states, film = (pair.current, pair.current_film) if role == "current" else (pair.prior, pair.prior_film)
    rows, columns = film.shape(PHANTOM_SIDE)
    return from_grey(render(pair.patient, states, film, rows, columns).pixels, view=film.view)


def load_pair(record: Record) -> StudyPair:
    """The images of a record as the model is asked with them. Raises PixelError."""
    prior = load_image(record.prior) if record.prior is not None else None
    return StudyPair(current=load_image(record.current), prior=prior, context=record.context)


def loaded(
    records: Iterable[Record], report: DropReport, *, split: Split | None = None, limit: int | None = None
) -> Iterator[tuple[Record, StudyPair]]:
    """Records of one split with their images, one at a time; what cannot be decoded is counted. limit: at most so many.

    split: None for all but the fixtures, which count in no metric.
    """
    given = 0
    for record in records:
        if record.split is Split.FIXTURE and split is None:
            report.note("fixture left out: it counts in no metric")
            continue
        if split is not None and record.split is not split:
            continue
        if limit is not None and given >= limit:
            return
        try:
            pair = load_pair(record)
        except PixelError as error:
            report.drop(f"image cannot be decoded: {error}", record.record_id)
            continue
        given += 1
        yield record, pair


def _phantom(spec: DataSpec, report: DropReport) -> Iterator[Record]:
    count, at, seed = spec.source.partition("@")
    if not count.isdigit() or (at and not seed.isdigit()):
        raise DataError(f"{spec}: write {_USAGE['phantom']}")
    for record in phantom_records(int(count), first_seed=int(seed) if seed else HELD_OUT_SEED):
        report.keep()
        yield record


def _image_source(spec: DataSpec) -> Callable[[str, str, str], Path]:
    """MIMIC images of either set: the DICOM one is told by its record list."""
    root = Path(spec.images or "")
    if not (root / "files").is_dir():
        raise DataError(f"{root} holds no MIMIC-CXR images (no folder `files`)")
    is_dicom = any(root.glob("cxr-record-list.csv*"))
    return partial(dicom_path if is_dicom else jpg_path, root)


_KINDS: dict[str, Callable[[DataSpec, DropReport], Iterator[Record]]] = {
    "phantom": _phantom,
    "nih": lambda spec, report: read_nih(Path(spec.source), report),
    "hannover": lambda spec, report: read_hannover(Path(spec.source), report),
    "mimic-jpg": lambda spec, report: read_mimic_cxr_jpg(Path(spec.source), report),
    "mimic-dicom": lambda spec, report: read_mimic_cxr_dicom(Path(spec.images or ""), report, tables=Path(spec.source)),
    "diff-vqa": lambda spec, report: read_medical_diff_vqa(Path(spec.source), _image_source(spec), report),
    "ms-cxr-t": lambda spec, report: read_ms_cxr_t(Path(spec.source), _image_source(spec), report),
    "site": lambda spec, report: read_site(Path(spec.source), report),
}
_WITH_IMAGES = frozenset({"mimic-dicom", "diff-vqa", "ms-cxr-t"})
_USAGE = {
    "phantom": "phantom:COUNT[@FIRST_SEED]",
    "nih": "nih:FOLDER",
    "hannover": "hannover:FOLDER",
    "mimic-jpg": "mimic-jpg:FOLDER",
    "mimic-dicom": "mimic-dicom:TABLES,IMAGES",
    "diff-vqa": "diff-vqa:FOLDER,IMAGES",
    "ms-cxr-t": "ms-cxr-t:FOLDER,IMAGES",
    "site": "site:FILE",
}
