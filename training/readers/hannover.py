"""The Hannover COVID-19 Image Repository: series without finding labels; the clinical course is a fact, no truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from model.schema import PatientContext
from training.readers.labels import frontal_view
from training.readers.mimic import SPLIT_WORDS
from training.readers.series import LabelledImage, series_records
from training.readers.tables import find_table, read_rows
from training.records.drops import DropReport
from training.records.record import ImageRef, Record, Split

TABLE, PAIRS, SPLITS = "data.csv", "pairs.csv", "splits.csv"
_PROXIES = ("icu_proxy", "crp_proxy", "delta_days")


def read_hannover(root: Path, report: DropReport, *, check_images: bool = True) -> Iterator[Record]:
    """Records of the Hannover set: first image of a patient alone, later ones against the one before by exam day.

    Exam day = −admission_offset. Two images of one day have no order: that pair is dropped and counted. Findings are
    empty; the clinical proxies of `pairs.csv` stand in `truth.facts` and are no labels of the image.
    """
    splits = {
        patient: SPLIT_WORDS[word]
        for patient, word in read_rows(find_table(root, SPLITS), ("patient_id", "split"), report)
    }
    proxies = _read_proxies(root, report)
    series: dict[str, list[LabelledImage]] = defaultdict(list)
    seen: set[str] = set()
    columns = ("patient_id", "image_id", "sex", "admission_offset", "projection")
    for patient, image_id, sex, offset, projection in read_rows(find_table(root, TABLE), columns, report):
        path, view, day = root / "png" / f"{image_id}.png", frontal_view(projection), _day(offset)
        if image_id in seen:
            report.drop("duplicate image_id", image_id)
        elif patient not in splits:
            report.drop("patient without a split", patient)
        elif view is None or day is None:
            report.drop("not a frontal view, or no exam day", image_id)
        elif check_images and not path.is_file():
            report.drop("image file missing", image_id)
        else:
            seen.add(image_id)
            # `when` is compared as text; exam days may be negative, and offset and padded they sort as numbers.
            when = f"{day + 100_000:06d}"
            image = ImageRef(key=str(path), image_id=image_id, study_id=image_id, view=view, when=when)
            context = PatientContext(sex=sex.upper() or None)
            series[patient].append(LabelledImage(image=image, known={}, order=(day,), context=context))
    for patient, images in series.items():
        yield from series_records(
            patient,
            images,
            splits.get(patient, Split.TRAIN),
            report,
            set_name="hannover",
            facts=lambda prior, current: proxies.get((prior, current), {}),
        )


def _day(offset: str) -> int | None:
    try:
        return -int(float(offset))
    except ValueError:
        return None


def _read_proxies(root: Path, report: DropReport) -> dict[tuple[str, str], Mapping[str, str]]:
    """(prior, current) → the clinical course between the two, as far as it is stated."""
    result: dict[tuple[str, str], Mapping[str, str]] = {}
    for prior, current, *values in read_rows(find_table(root, PAIRS), ("prior", "current", *_PROXIES), report):
        result[prior, current] = {name: value for name, value in zip(_PROXIES, values, strict=True) if value}
    return result
