"""One training or test sample as every reader gives it: images by reference, truth, published questions, split."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from model.questions.battery import QuestionType
from model.questions.grammar import Tense, parse_events, write_events
from model.schema import Change, PatientContext
from training.records.truth import FindingTruth, PairTruth


class Split(StrEnum):
    """The permitted use of a patient's data."""

    TRAIN = "train"
    VALIDATE = "validate"
    """For choosing settings and for calibration ("val", "validate" or "dev" in the published tables)."""
    TEST = "test"
    FIXTURE = "fixture"
    """Only for tests and demonstrations; counts in no metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """Where an image comes from. key: path of a file, or an id that the data set resolves (phantoms are rendered).

    image_id: unique in the set. study_id: of the study it belongs to. when: sortable text (date and time, or a number).
    """

    key: str
    image_id: str
    study_id: str = ""
    view: str | None = None
    when: str = ""


def days_between(images: Sequence[ImageRef]) -> tuple[int | None, ...]:
    """Days between each image and the last one; None where a date is not known, empty for a single image."""

    def day(image: ImageRef) -> dt.date | None:
        try:
            return dt.datetime.fromisoformat(image.when).date()
        except ValueError:
            return None  # a follow-up number, or nothing

    dates = [day(image) for image in images]
    last = dates[-1]
    return tuple(None if date is None or last is None else (last - date).days for date in dates[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One published question with its published answer."""

    type: QuestionType
    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One pair, or one image where prior is None.

    earlier: older images than the prior, oldest first (sequences of more than two). asked: published questions; those
    of type DIFFERENCE are about the pair, all others about the current image alone. future: what becomes of the
    findings from the current image to the next one, where there is a next one; that image is no part of the record.
    """

    truth: PairTruth
    current: ImageRef
    prior: ImageRef | None = None
    earlier: tuple[ImageRef, ...] = ()
    asked: tuple[Asked, ...] = ()
    context: PatientContext | None = None
    future: PairTruth | None = None
    split: Split = Split.TRAIN

    def __post_init__(self) -> None:
        if self.truth.has_prior != (self.prior is not None):
            raise ValueError(f"{self.record_id}: the truth and the images disagree on whether there is a prior")

    @property
    def record_id(self) -> str:
        """Unique in its set."""
        return self.truth.pair_id

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """All images, oldest first, the current one last."""
        return (*self.earlier, *([self.prior] if self.prior is not None else []), self.current)

    @property
    def patient_id(self) -> str:
        """The unit of splits."""
        return self.truth.patient_id


def swapped(record: Record) -> Record | None:
    """The pair in the other order, for augmentation; None where its difference answer cannot be inverted surely.

    Earlier images, the single-image questions, the context and the future are dropped: they belong to the other image.
    """
    if record.prior is None:
        return None
    asked = []
    for item in record.asked:
        if item.type is QuestionType.DIFFERENCE:
            parsed = parse_events(item.answer)
            if not parsed.complete:
                return None
            answer = write_events((event.inverse() for event in parsed.events), Tense.DIFFERENCE)
            asked.append(replace(item, answer=answer))
    return replace(
        record,
        truth=record.truth.swapped(),
        current=record.prior,
        prior=record.current,
        earlier=(),
        asked=tuple(asked),
        context=None,
        future=None,
    )


def same_image(record: Record) -> Record:
    """The current image given as its own prior: everything that is there is stable, and nothing has changed."""
    findings = {
        key: FindingTruth(
            key=key,
            current=truth.current,
            prior=truth.current,
            change=Change.STABLE if truth.current is not None and truth.current.present else None,
        )
        for key, truth in record.truth.findings.items()
        if truth.current is not None
    }
    truth = replace(
        record.truth,
        pair_id=f"{record.truth.pair_id}/same",
        findings=findings,
        has_prior=True,
        prior_view=record.truth.view,
    )
    asked = tuple(item for item in record.asked if item.type is not QuestionType.DIFFERENCE)
    return replace(record, truth=truth, prior=record.current, earlier=(), asked=asked, future=None)
