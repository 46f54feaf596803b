"""Images of one patient in time order → records: the first alone, every later one with its prior and earlier images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.schema import PatientContext
from training.readers.labels import Known, pair_findings, single_findings
from training.records.drops import DropReport
from training.records.record import ImageRef, Record, Split
from training.records.truth import PairTruth


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledImage:
    """One image of a series. known: its own labels. order: sorts the series; equal orders are not comparable."""

    image: ImageRef
    known: Known
    order: tuple[float | int | str, ...]
    context: PatientContext | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further facts of each record whose current image this is."""


def series_records(
    patient_id: str,
    images: Sequence[LabelledImage],
    split: Split,
    report: DropReport,
    *,
    set_name: str,
    proxy: bool = True,
    facts: Callable[[str, str], Mapping[str, str]] | None = None,
) -> Iterator[Record]:
    """Records of one patient: each image alone where it is the first, else against the one before it.

    Two images of one order (same moment, same number) cannot be compared: the pair is dropped and counted, the image
    is given alone. So is a pair of two files with the same bytes: one film under two names. facts: (prior, current) ids
    → further facts of a pair.
    """
    # The name breaks ties only to make the list the same each time; it is never taken for an order in time.
    ordered = sorted(images, key=lambda item: (item.order, item.image.image_id))
    for number, item in enumerate(ordered):
        before = ordered[number - 1] if number and _is_comparable(ordered[number - 1], item, report) else None
        report.keep()
        pair_id = f"{set_name}/{item.image.image_id}" + (f"/{before.image.image_id}" if before else "")
        pair_facts = facts(before.image.image_id, item.image.image_id) if facts and before else {}
        yield Record(
            truth=PairTruth(
                pair_id=pair_id,
                patient_id=f"{set_name}/{patient_id}",
                findings=pair_findings(item.known, before.known) if before else single_findings(item.known),
                has_prior=before is not None,
                view=item.image.view,
                prior_view=before.image.view if before else None,
                proxy=proxy,
                facts={**item.facts, **pair_facts},
            ),
            current=item.image,
            prior=before.image if before else None,
            earlier=tuple(other.image for other in ordered[: number - 1]) if before else (),
            context=item.context,
            split=split,
        )


def _is_comparable(before: LabelledImage, item: LabelledImage, report: DropReport) -> bool:
    """Tell whether the two images make a pair; the report counts one that does not."""
    names = f"{before.image.image_id} and {item.image.image_id}"
    if before.order == item.order:
        report.drop("pair without an order in time", names)
        return False
    if is_same_file(before.image.key, item.image.key):
        # A copy under another name is no second examination: "no change" would be learnt from equal bytes.
        report.drop("pair of one film under two names", names)
        return False
    return True


def is_same_file(first: str, second: str) -> bool:
    """True if two files hold the same bytes; False if one is missing."""
    left, right = Path(first), Path(second)
    if not (left.is_file() and right.is_file()) or left.stat().st_size != right.stat().st_size:
        return False
    return left.read_bytes() == right.read_bytes()
