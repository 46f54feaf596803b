"""A multiple-choice question over the visits of one patient, as MI-CXR (arXiv 2605.15574) has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from training.records.record import ImageRef

VISITS = 5
LETTERS = ("A", "B", "C", "D", "E")


class ChoiceFamily(StrEnum):
    """The families of MI-CXR and one of the phantoms' own."""

    EVENT = "TEL"
    """Temporal event localization: between which visits something appears or resolves."""
    CHANGE = "ICR"
    """Interval-wise change reasoning."""
    COURSE = "GTS"
    """Global trajectory summarization: the statement that describes the whole course."""
    ORDER = "ORDER"
    """In which order findings first appear; not in MI-CXR."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceItem:
    """One question. kind: the finer type ("single_emergence"). images: of VISITS visits, oldest first. choices:
    letter → text. answer: the right letter. findings: ontology keys that it is about, empty where no known one is
    named."""

    item_id: str
    patient_id: str
    family: ChoiceFamily
    kind: str
    images: tuple[ImageRef, ...]
    question: str
    choices: Mapping[str, str]
    answer: str
    findings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) != VISITS:
            raise ValueError(f"{self.item_id}: {len(self.images)} images, not {VISITS}")
        if self.answer not in self.choices:
            raise ValueError(f"{self.item_id}: the answer {self.answer!r} is none of {sorted(self.choices)}")
