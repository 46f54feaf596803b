"""Who is trained on and who is only ever evaluated on. Pure: patients and known splits in, new splits out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dicom_node.index.tables.retrain import RetrainSplit


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitShares:
    """frozen: of new patients, until the frozen set has `frozen_patients`. validate: of those on the training side."""

    frozen_patients: int
    frozen: float
    validate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """split: of every patient that may be used. conflicts: patients whose films would join two splits."""

    split: Mapping[str, RetrainSplit]
    conflicts: frozenset[str]


def assign(links: Iterable[tuple[str, str]], known: Mapping[str, RetrainSplit], shares: SplitShares) -> Assignment:
    """Split the patients. links: the patient of an image and the patient of its prior, mostly the same person.

    Two IDs that a comparison links are one person and go together. Who has a split keeps it for ever; where one
    person's IDs came into different ones before they were known to be the same, none of them is used any more. New
    patients fill the frozen set up to its size (or where it lost some whose labels no longer count) and join the
    training side after that. Chosen by hash: the same
    patients give the same splits on every machine.
    """
    people = _people(links)
    split: dict[str, RetrainSplit] = {}
    conflicts: set[str] = set()
    new: list[list[str]] = []
    for person in people:
        given = {known[patient] for patient in person if patient in known}
        if len(given) > 1:
            conflicts.update(person)
        elif given:
            split.update(dict.fromkeys(person, given.pop()))
        else:
            new.append(person)
    new.sort(key=lambda person: _place(person, "frozen"))
    frozen = sum(where is RetrainSplit.FROZEN for where in split.values())
    # At most a share of the new patients: a set that is still small must not take all that training could learn from.
    missing = min(shares.frozen_patients - frozen, math.ceil(shares.frozen * len(new)))
    held, rest = new[: max(0, missing)], new[max(0, missing) :]
    rest.sort(key=lambda person: _place(person, "validate"))
    calibrate = _missing_validation(known, len(rest), shares)
    for people_of, where in (
        (held, RetrainSplit.FROZEN),
        (rest[:calibrate], RetrainSplit.VALIDATE),
        (rest[calibrate:], RetrainSplit.TRAIN),
    ):
        for person in people_of:
            split.update(dict.fromkeys(person, where))
    return Assignment(split=split, conflicts=frozenset(conflicts))


def _missing_validation(known: Mapping[str, RetrainSplit], new: int, shares: SplitShares) -> int:
    """The number of new people on the training side that are held back, so that the share holds over old and new."""
    validate = sum(where is RetrainSplit.VALIDATE for where in known.values())
    side = validate + sum(where is RetrainSplit.TRAIN for where in known.values()) + new
    missing = math.ceil(shares.validate * side) - validate
    return min(new, max(0, missing))


def _people(links: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Patients joined by links, each group sorted, in order of their first member."""
    owner: dict[str, str] = {}

    def find(patient: str) -> str:
        owner.setdefault(patient, patient)
        while owner[patient] != patient:
            # Union-find with halved paths: each look shortens the next one's way to the group's first name.
            owner[patient] = owner[owner[patient]]
            patient = owner[patient]
        return patient

    for first, second in links:
        low, high = sorted((find(first), find(second)))
        # The smaller name leads, so that a group is called the same in whatever order its links come.
        owner[high] = low
    groups: dict[str, list[str]] = {}
    for patient in sorted(owner):
        groups.setdefault(find(patient), []).append(patient)
    return [groups[name] for name in sorted(groups)]


def _place(person: list[str], purpose: str) -> str:
    return hashlib.sha256(f"{purpose}\x1f{person[0]}".encode()).hexdigest()
