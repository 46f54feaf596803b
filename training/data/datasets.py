"""Data sets by name for the commands: "phantom:200", "nih:FOLDER", "ms-cxr-t:FOLDER,IMAGES" → records and images."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from model.errors import PixelError
from model.images.display import load_display_image
from model.schema import MAX_IMAGES, DisplayImage, StudyPair
from training.readers.chextemporal import GOLD, SILVER, read_chextemporal
from training.readers.diffvqa import read_medical_diff_vqa
from training.readers.hannover import read_hannover
from training.readers.micxr import read_mi_cxr
from training.readers.mimic import dicom_path, jpg_path, read_mimic_cxr_jpg
from training.readers.mimic_dicom import read_mimic_cxr_dicom
from training.readers.mscxrt import read_ms_cxr_t
from training.readers.nih import read_nih
from training.readers.nih_series import read_nih_marks, read_nih_series
from training.readers.phantom import (
    HELD_OUT_SEED,
    is_phantom,
    load_phantom_image,
    read_phantom_cache,
    read_phantom_courses,
    read_phantom_pairs,
)
from training.readers.phantom_choices import CHOICES_SEED, read_phantom_choices
from training.readers.site import read_site
from training.records.choices import ChoiceItem
from training.records.drops import DataError, DropReport
from training.records.record import ImageRef, Record, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """The meaning of a data set's name on the command line. source: a folder, file or count; images: image root or
    None."""

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


def load_image(image: ImageRef) -> DisplayImage:
    """The display image of a record's image: a file, or a phantom. Raises PixelError."""
    return load_phantom_image(image.key) if is_phantom(image.key) else load_display_image(Path(image.key))


def load_pair(record: Record, *, most: int = 2) -> StudyPair:
    """The newest `most` images of a record as the model is asked with them. Raises PixelError, and ValueError where
    their files say that they were taken in another order."""
    images = [_date_image(load_image(image), image.when) for image in record.images[-min(most, MAX_IMAGES) :]]
    return StudyPair(
        current=images[-1],
        prior=images[-2] if len(images) > 1 else None,
        earlier=tuple(images[:-2]),
        context=record.context,
    )


def _date_image(image: DisplayImage, when: str) -> DisplayImage:
    """The image with the day that the data set gives, where its file has none."""
    if image.acquired is not None:
        return image
    try:
        return replace(image, acquired=dt.datetime.fromisoformat(when))
    except ValueError:
        return image  # a follow-up number, or nothing


def load_records(
    records: Iterable[Record],
    report: DropReport,
    *,
    split: Split | None = None,
    limit: int | None = None,
    most: int = 2,
) -> Iterator[tuple[Record, StudyPair]]:
    """Records of one split with their images, one at a time; what cannot be decoded is counted.

    split: None for all but the fixtures, which count in no metric. limit: at most this many records. most: images of
    one record.
    """
    given = 0
    for record in select_records(records, report, split=split):
        if limit is not None and given >= limit:
            return
        try:
            pair = load_pair(record, most=most)
        except PixelError as error:
            report.drop(f"image cannot be decoded: {error}", record.record_id)
            continue
        except ValueError as error:
            report.drop(str(error), record.record_id)
            continue
        given += 1
        yield record, pair


def select_records(records: Iterable[Record], report: DropReport, *, split: Split | None = None) -> Iterator[Record]:
    """The records of one split, without their images. split: None for all but the fixtures, which are counted."""
    for record in records:
        if record.split is Split.FIXTURE and split is None:
            report.note("fixture left out: it counts in no metric")
        elif split is None or record.split is split:
            yield record


def record_count(spec: DataSpec, *, split: Split | None = None, limit: int | None = None) -> int:
    """Count the records of `load_records` if every image can be decoded; reads the set's tables once more."""
    records = open_records(spec, DropReport())
    of_split = (r for r in records if (r.split is split if split is not None else r.split is not Split.FIXTURE))
    return sum(1 for _ in islice(of_split, limit))


def _read_phantoms(spec: DataSpec, report: DropReport) -> Iterator[Record]:
    count, at, seed = spec.source.partition("@")
    if not count.isdigit() or (at and not seed.isdigit()):
        raise DataError(f"{spec}: write {_USAGE[spec.kind]}")
    read = read_phantom_courses if spec.kind == "phantom-course" else read_phantom_pairs
    yield from read(int(count), report, first_seed=int(seed) if seed else HELD_OUT_SEED)


def _chextemporal(spec: DataSpec, report: DropReport, table: str) -> Iterator[Record]:
    yield from read_chextemporal(Path(spec.source), Path(spec.images or ""), report, table=table)


def _image_source(spec: DataSpec) -> Callable[[str, str, str], Path]:
    """MIMIC images of either set: the DICOM one is told by its record list."""
    root = Path(spec.images or "")
    if not (root / "files").is_dir():
        raise DataError(f"{root} holds no MIMIC-CXR images (no folder `files`)")
    # Both sets have the folder `files` and name their folders alike.
    is_dicom = any(root.glob("cxr-record-list.csv*"))
    return partial(dicom_path if is_dicom else jpg_path, root)


CHOICE_SETS = ("phantom:COURSES[@FIRST_SEED]", "mi-cxr:FOLDER,IMAGES")


def open_choices(text: str, report: DropReport) -> Iterator[ChoiceItem]:
    """The questions of a set; raises DataError naming the sets that there are."""
    kind, _, rest = text.partition(":")
    if kind == "phantom" and rest:
        courses, _, seed = rest.partition("@")
        if courses.isdigit() and (seed or str(CHOICES_SEED)).isdigit():
            return read_phantom_choices(int(courses), report, first_seed=int(seed) if seed else CHOICES_SEED)
    if kind == "mi-cxr" and rest.count(",") == 1:
        folder, images = rest.split(",")
        return read_mi_cxr(Path(folder), Path(images), report)
    raise DataError(f"{text!r} names no multiple-choice set; write one of: {', '.join(CHOICE_SETS)}")


def require_choices(text: str) -> None:
    """Raise DataError where a set of choices cannot be opened or has no question whose images are there.

    For the start of a long run: only the first such question is read.
    """
    report = DropReport()
    if next(open_choices(text, report), None) is None:
        raise DataError("\n".join([f"{text} gives no question", *report.lines()]))


def load_choices(
    text: str, report: DropReport, *, limit: int | None = None
) -> Iterator[tuple[ChoiceItem, tuple[DisplayImage, ...]]]:
    """Questions with the images of their visits, oldest first; those with an image that cannot be decoded are counted.

    limit: at most this many questions.
    """
    before: tuple[tuple[str, ...], tuple[DisplayImage, ...]] = ((), ())
    given = 0
    for item in open_choices(text, report):
        if limit is not None and given >= limit:
            return
        keys = tuple(image.key for image in item.images)
        # Questions on the same visits follow one another: their images are decoded once.
        if keys != before[0]:
            try:
                before = keys, tuple(load_image(image) for image in item.images)
            except PixelError as error:
                report.drop(f"image cannot be decoded: {error}", item.item_id)
                continue
        given += 1
        yield item, before[1]


_KINDS: dict[str, Callable[[DataSpec, DropReport], Iterator[Record]]] = {
    "phantom": _read_phantoms,
    "phantom-course": _read_phantoms,
    "phantom-cache": lambda spec, report: read_phantom_cache(Path(spec.source), report),
    "nih": lambda spec, report: read_nih(Path(spec.source), report),
    "nih-series": lambda spec, report: read_nih_series(Path(spec.source), report),
    "nih-marks": lambda spec, report: read_nih_marks(Path(spec.source), report),
    "hannover": lambda spec, report: read_hannover(Path(spec.source), report),
    "mimic-jpg": lambda spec, report: read_mimic_cxr_jpg(Path(spec.source), report),
    "mimic-dicom": lambda spec, report: read_mimic_cxr_dicom(Path(spec.images or ""), report, tables=Path(spec.source)),
    "diff-vqa": lambda spec, report: read_medical_diff_vqa(Path(spec.source), _image_source(spec), report),
    "ms-cxr-t": lambda spec, report: read_ms_cxr_t(Path(spec.source), _image_source(spec), report),
    "chextemporal": lambda spec, report: _chextemporal(spec, report, GOLD),
    "chextemporal-silver": lambda spec, report: _chextemporal(spec, report, SILVER),
    "site": lambda spec, report: read_site(Path(spec.source), report),
}
_WITH_IMAGES = frozenset({"mimic-dicom", "diff-vqa", "ms-cxr-t", "chextemporal", "chextemporal-silver"})
_USAGE = {
    "phantom": "phantom:COUNT[@FIRST_SEED]",
    "phantom-course": "phantom-course:COUNT[@FIRST_SEED]",
    "phantom-cache": "phantom-cache:FOLDER",
    "nih": "nih:FOLDER",
    "nih-series": "nih-series:FOLDER",
    "nih-marks": "nih-marks:FOLDER",
    "hannover": "hannover:FOLDER",
    "mimic-jpg": "mimic-jpg:FOLDER",
    "mimic-dicom": "mimic-dicom:TABLES,IMAGES",
    "diff-vqa": "diff-vqa:FOLDER,IMAGES",
    "ms-cxr-t": "ms-cxr-t:FOLDER,IMAGES",
    "chextemporal": "chextemporal:FOLDER,IMAGES",
    "chextemporal-silver": "chextemporal-silver:FOLDER,IMAGES",
    "site": "site:FILE",
}
