"""Who is in which split: the official one, a patient-disjoint one, and a report on what leaks between splits."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from training.records.drops import DataError
from training.records.record import Record, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of the patients; the rest trains."""

    validate: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if min(self.validate, self.test) < 0 or self.validate + self.test >= 1:
            raise ValueError("the shares of validate and test are at least 0 and leave patients to train on")


def patient_split(patient_id: str, salt: str, shares: Shares) -> Split:
    """The split of a patient, from a hash of the id alone: the same in every set, run and machine."""
    # The separator stands in neither part: ("a", "bc") and ("ab", "c") are not one.
    digest = hashlib.sha256(f"{salt}\x1f{patient_id}".encode()).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < shares.test:
        return Split.TEST
    return Split.VALIDATE if share < shares.test + shares.validate else Split.TRAIN


def keep_patients_apart(records: Iterable[Record], *, salt: str, shares: Shares | None = None) -> Iterator[Record]:
    """The records with every patient in one split; fixtures stay fixtures."""
    for record in records:
        if record.split is Split.FIXTURE:
            yield record
        else:
            yield replace(record, split=patient_split(record.patient_id, salt, shares or Shares()))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageReport:
    """Patients and images in more than one split. patients and images: ids, with the splits each stands in."""

    records: Mapping[Split, int]
    patients: Mapping[str, frozenset[Split]]
    images: Mapping[str, frozenset[Split]]

    @property
    def clean(self) -> bool:
        """No patient and no image is in two splits."""
        return not self.patients and not self.images

    def lines(self) -> list[str]:
        """As text: counts first, then up to ten of each kind."""
        counts = ", ".join(f"{split.value} {count}" for split, count in sorted(self.records.items()))
        lines = [f"records: {counts or 'none'}"]
        for kind, leaks in (("patients", self.patients), ("images", self.images)):
            lines.append(f"{kind} in more than one split: {len(leaks)}")
            lines += [
                f"  {name}: {', '.join(sorted(s.value for s in where))}" for name, where in list(leaks.items())[:10]
            ]
        return lines


def find_leakage(records: Iterable[Record]) -> LeakageReport:
    """Look for patients and images in more than one split; one pass, some 100 bytes for each id."""
    counts: dict[Split, int] = defaultdict(int)
    patients: dict[str, frozenset[Split]] = {}
    images: dict[str, frozenset[Split]] = {}
    single = {split: frozenset({split}) for split in Split}  # shared values: most ids stand in one split
    for record in records:
        counts[record.split] += 1
        shown = [record.current, *record.earlier, *([record.prior] if record.prior is not None else [])]
        for table, ids in ((patients, [record.patient_id]), (images, [image.image_id for image in shown])):
            for name in ids:
                where = table.get(name)
                if where is None:
                    table[name] = single[record.split]
                elif record.split not in where:
                    table[name] = where | {record.split}
    return LeakageReport(
        records=dict(counts),
        patients={name: where for name, where in patients.items() if len(where) > 1},
        images={name: where for name, where in images.items() if len(where) > 1},
    )


def require_no_leakage(records: Iterable[Record]) -> LeakageReport:
    """`find_leakage`, raising DataError where something leaks: a metric on such a split would be a lie."""
    report = find_leakage(records)
    if not report.clean:
        raise DataError("the splits leak:\n" + "\n".join(report.lines()))
    return report
