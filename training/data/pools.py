"""The pools that a mix draws from: the records of a set by stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.errors import PixelError
from training.data.features import Features
from training.data.index import SetIndex
from training.data.pictures import Pictures
from training.data.record_rows import row_to_record
from training.data.samples import Sample, augment
from training.data.targets import VisibleImages, targets_of_truth
from training.instructions.streams import (
    Conversation,
    ExpertText,
    InstructionOptions,
    LongAnswers,
    Stream,
    conversations,
)
from training.records.drops import DropReport
from training.records.record import ImageRef, Record, same_image, swapped


class SampleError(PixelError):
    """A sample cannot be made. reason: for counting, without names. which: the image or record."""

    def __init__(self, reason: str, which: str) -> None:
        super().__init__(reason, which)
        self.reason, self.which = reason, which

    def __str__(self) -> str:
        return f"{self.which}: {self.reason}"


class Pool(Protocol):
    """Samples of one kind, by number."""

    @property
    def name(self) -> str:
        """Set and stream, for reports."""
        ...

    @property
    def size(self) -> int:
        """The number of items."""
        ...

    def make(self, item: int, rng: Generator) -> Sample:
        """The sample of one item, varied by `rng`. Raises SampleError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """The variation of an item. swap: probability that a pair of the difference stream is shown in the other order.
    same: that its current image is shown as its own prior. conversation: turns one after another, each seeing those
    before it; else each sees the images alone. augment: small shifts and changes of contrast. turns: False leaves the
    texts out. findings: of the heads' targets; empty: no targets."""

    swap: float = 0.0
    same: float = 0.0
    conversation: bool = False
    augment: bool = True
    turns: bool = True
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordPool:
    """The records of a set that teach one stream."""

    name: str
    index: SetIndex
    stream: Stream
    options: InstructionOptions
    variation: Variation
    pictures: Pictures
    expert: ExpertText | None = None
    long_answers: LongAnswers = field(default_factory=dict)
    features: Features | None = None

    @property
    def size(self) -> int:
        return len(self.index.members[self.stream])

    def record(self, item: int) -> Record:
        """The record of one item."""
        return row_to_record(self.index.rows[int(self.index.members[self.stream][item])])

    def make(self, item: int, rng: Generator) -> Sample:
        stored = self.record(item)
        record = self._vary(stored, rng) if self.stream is Stream.DIFFERENCE else stored
        # A varied record may have nothing to ask, and thinning out may leave nothing: then it is shown as it is.
        choices = self._make_conversations(record, rng, self.options.keep_negatives)
        if not choices:
            record, choices = stored, self._make_conversations(stored, rng, 1.0)
        if not choices:
            raise SampleError("nothing to ask", stored.record_id)
        chosen = choices[int(rng.integers(len(choices)))]
        pictures: tuple[NDArray[np.uint8], ...] = ()
        marks = None
        if self.features is None:
            pictures, marks = show_pictures(chosen.images, self.pictures, self.variation, rng)
        targets = None
        if self.variation.findings:
            targets = targets_of_truth(record.truth, self.variation.findings, _visible_images(chosen, record))
            targets = replace(targets, marks=marks)
        return Sample(
            images=pictures,
            layout=chosen.layout,
            turns=chosen.turns if self.variation.turns else (),
            targets=targets,
            conversation=self.variation.conversation,
            features=self._load_features(chosen.images),
        )

    def _load_features(self, images: Sequence[ImageRef]) -> tuple[NDArray[np.float16], ...]:
        if self.features is None:
            return ()
        features = []
        for image in images:
            try:
                features.append(self.features.get(image))
            except PixelError as error:
                raise SampleError(str(error), image.image_id) from error
        return tuple(features)

    def _make_conversations(self, record: Record, rng: Generator, keep_negatives: float) -> list[Conversation]:
        options = replace(self.options, streams=frozenset({self.stream}), keep_negatives=keep_negatives)
        return list(
            conversations(record, options, rng, DropReport(), expert=self.expert, long_answers=self.long_answers)
        )

    def _vary(self, record: Record, rng: Generator) -> Record:
        if record.prior is None or (record.earlier and self.options.max_images > 2):
            return record  # a sequence in another order is no course of anything
        if self.variation.swap and rng.random() < self.variation.swap:
            record = swapped(record) or record
        if self.variation.same and rng.random() < self.variation.same:
            again = same_image(record)
            if again.truth.findings:  # else nothing could be asked of it
                record = again
        return record


def _visible_images(conversation: Conversation, record: Record) -> VisibleImages:
    if len(conversation.images) > 1:
        return VisibleImages.PAIR
    return VisibleImages.CURRENT if conversation.images[0] == record.current else VisibleImages.PRIOR


def show_pictures(
    images: Sequence[ImageRef], pictures: Pictures, variation: Variation, rng: Generator
) -> tuple[tuple[NDArray[np.uint8], ...], NDArray[np.uint8] | None]:
    """The pictures of a sequence in order, each varied by itself, and where the findings lie on the last two.

    The outlines are uint8 [2, K, side, side], None where those of an image are not known. Raises SampleError naming the
    first unreadable image.
    """
    shown: list[NDArray[np.uint8]] = []
    outlines: list[NDArray[np.uint8] | None] = []
    for image in images:
        try:
            picture, marks = pictures.get(image), pictures.marks(image, variation.findings)
        except PixelError as error:
            raise SampleError(f"image cannot be decoded: {error}", image.image_id) from error
        if variation.augment:
            picture, marks = augment(picture, marks, rng)
        shown.append(picture)
        outlines.append(marks)
    return tuple(shown), _last_two(outlines)


def _last_two(outlines: Sequence[NDArray[np.uint8] | None]) -> NDArray[np.uint8] | None:
    known = [marks for marks in outlines[-2:] if marks is not None]
    if len(known) < len(outlines[-2:]):
        return None
    return np.stack([known[0] * 0, known[0]] if len(known) == 1 else known)
