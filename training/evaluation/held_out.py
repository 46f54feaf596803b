"""Whom a checkpoint was trained on: a figure on them is no figure of how it reads anybody else.

The manifest keeps the recipe, so it says which sets taught the weights, in which split, and by which salt where they
were split by patient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.readers.splits import Shares, patient_split
from training.records.drops import DataError, DropReport
from training.records.record import Record, Split

SAME_PATIENTS: Final = {
    "mimic-jpg": "MIMIC-CXR",
    "mimic-dicom": "MIMIC-CXR",
    "diff-vqa": "MIMIC-CXR",
    "ms-cxr-t": "MIMIC-CXR",
    "nih": "ChestX-ray14",
    "nih-series": "ChestX-ray14",
    "nih-marks": "ChestX-ray14",
}
"""Kinds of data that show the same patients under the same ids; any other kind shows its own."""
NO_PATIENTS: Final = ("phantom", "phantom-course", "phantom-cache")
"""Synthetic: training and evaluation draw from seeds of their own."""
DEFAULT_SALT: Final = "dicom-node"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """One set of a recipe. salt: of its split by patient; "" for the set's own split."""

    kind: str
    split: str
    salt: str

    def teaches(self, split: Split) -> bool:
        """Tell whether records of this split taught the weights."""
        return self.split == "all" or split.value == self.split


def training_sets(recipe: Mapping[str, Any] | str, kind: str) -> tuple[TrainingSet, ...]:
    """The sets of a manifest's recipe that show the patients of data of `kind`."""
    data = recipe.get("data", {}) if isinstance(recipe, Mapping) else {}
    sections = data.get("sets", ()) if isinstance(data, Mapping) else ()
    sets = tuple(
        TrainingSet(
            kind=str(section["data"]).partition(":")[0],
            split=str(section.get("split", "train")),
            salt=str(section.get("salt", DEFAULT_SALT)) if section.get("by_patient") else "",
        )
        for section in sections
    )
    return tuple(
        training_set
        for training_set in sets
        if kind not in NO_PATIENTS and _patients_of(training_set.kind) == _patients_of(kind)
    )


def salt_of(recipe: Mapping[str, Any] | str, kind: str) -> str:
    """The salt by which training split these patients; the usual one where it did not."""
    return next((training_set.salt for training_set in training_sets(recipe, kind) if training_set.salt), DEFAULT_SALT)


def count_seen(
    records: Callable[[], Iterable[Record]],
    recipe: Mapping[str, Any] | str,
    *,
    kind: str,
    split: Split | None,
    by_patient: bool,
) -> int:
    """Count the records of `split` whose patients a checkpoint was trained on, in one pass over the set.

    Parameters
    ----------
    records
        Opens the set of `kind` from its beginning, with its own split.
    split, by_patient
        What will be asked: a split of the set, or of its patients by the salt of training; None: all.

    Raises
    ------
    DataError
        Where it cannot be told, because training took the published split of another set of the same patients.
    """
    sets = training_sets(recipe, kind)
    _refuse_foreign_splits(sets, kind)
    if not sets:
        return 0
    own = [training_set for training_set in sets if not training_set.salt]
    salt = salt_of(recipe, kind)
    taught, asked = set[str](), dict[str, int]()
    for record in records():
        if any(training_set.teaches(record.split) for training_set in own):
            taught.add(record.patient_id)
        record_split = patient_split(record.patient_id, salt, Shares()) if by_patient else record.split
        if split is None or record_split is split:
            asked[record.patient_id] = asked.get(record.patient_id, 0) + 1
    # Splits by salt need no pass over the set: they follow from the patient's name alone.
    salted = [training_set for training_set in sets if training_set.salt]
    taught.update(p for p in asked for each in salted if each.teaches(patient_split(p, each.salt, Shares())))
    return sum(count for patient, count in asked.items() if patient in taught)


def _refuse_foreign_splits(sets: Sequence[TrainingSet], kind: str) -> None:
    """Raise DataError for training on the published split of another set: whom it shows, only that set can tell."""
    foreign = [
        training_set
        for training_set in sets
        if not training_set.salt and training_set.split != "all" and training_set.kind != kind
    ]
    if foreign:
        raise DataError(
            f"the checkpoint was trained on the split {foreign[0].split!r} of {foreign[0].kind}, which shows patients"
            f" of {kind} too; which ones cannot be told from {kind} alone. Measure on {foreign[0].kind} in another"
            " split, or say --seen-patients to measure on patients that may have taught it"
        )


def require_held_out(
    records: Callable[[], Iterable[Record]],
    recipe: Mapping[str, Any] | str,
    report: DropReport,
    *,
    kind: str,
    split: Split | None,
    by_patient: bool,
    seen_patients: bool,
) -> None:
    """Refuse to measure on patients that taught the checkpoint, unless `seen_patients`; then the report says it.

    Raises DataError naming how many there are and how to measure on others.
    """
    if seen_patients:
        if training_sets(recipe, kind):
            report.note("asked although patients of this set may have taught the checkpoint (--seen-patients)")
        return
    count = count_seen(records, recipe, kind=kind, split=split, by_patient=by_patient)
    if count:
        way = "--split test" if by_patient else "--split test --by-patient"
        raise DataError(
            f"{count} records are of patients that the checkpoint was trained on, so their figures would flatter it."
            f" Measure on others with {way}, or say --seen-patients to measure on these all the same"
        )


def _patients_of(kind: str) -> str:
    return SAME_PATIENTS.get(kind, kind)
