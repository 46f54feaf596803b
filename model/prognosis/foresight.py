"""Prediction of the next image in service: each image is read by itself, the head puts them and the chart together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.checkpoints.manifest import Manifest
from model.engine.answers import ClosedAnswer, EngineJob
from model.engine.engine import Engine
from model.engine.vlm import Vlm
from model.finding_states import NONE, likeliest
from model.ontology import ontology
from model.prognosis.head import PrognosisHead, read_head
from model.prognosis.inputs import Known, Reading, reading_of, setting_of
from model.questions.battery import Question, QuestionType, closed_question
from model.schema import MAX_IMAGES, Change, DisplayImage, Finding, Presence, PrognosisItem, StudyPair

MOST_KEPT = 4096
"""Readings that are kept, of some hundred bytes each: films of weeks."""


class Foresight:
    """The head of one checkpoint with the model that reads its images. Not for several threads at once.

    stated: setting -> findings whose own figures in that setting allow a statement (`Manifest.prognosis_findings`).
    calibrated: makes probabilities of a scored answer. floor: least probability of what is stated.
    """

    def __init__(
        self,
        vlm: Vlm,
        engine: Engine,
        head: PrognosisHead,
        *,
        stated: Mapping[str, Sequence[str]],
        calibrated: Callable[[ClosedAnswer], Mapping[str, float]],
        floor: float = 0.0,
    ) -> None:
        self.head = head
        self._vlm, self._engine, self._calibrated, self._floor = vlm, engine, calibrated, floor
        self._stated = {setting: frozenset(keys) for setting, keys in stated.items()}
        self._questions = reading_questions(head.vocabulary.findings)
        self._kept: dict[bytes, Reading] = {}

    def items(self, study: StudyPair) -> tuple[PrognosisItem, ...]:
        """The statements allowed on the next image; a finding that is and stays absent is not stated."""
        if not any(self._stated.values()):
            return ()
        known = self.known(study)
        allowed = self._stated.get(setting_of(known), frozenset())
        items = []
        for key, shares in self.head.probabilities(known).items():
            best = likeliest(shares)
            if key in allowed and best is not None and best != NONE and shares[best] >= self._floor:
                items.append(PrognosisItem(key=key, change=Change(best), probability=shares[best]))
        return tuple(items)

    def known(self, study: StudyPair) -> Known:
        """The known facts of a study: its newest images read one by one, the days between them, the chart."""
        newest = study.newest(MAX_IMAGES)
        return Known(readings=self.readings(newest.images), days=newest.days, context=study.context)

    def readings(self, images: Sequence[DisplayImage]) -> tuple[Reading, ...]:
        """One reading for each image, each asked alone, together in one batch. Not to be written to.

        A film that was read before is not asked again: the prior of a study was the current film of an earlier one.
        """
        pictures = [self._vlm.picture(image) for image in images]
        # All that a reading rests on beside this checkpoint.
        keys = [sha256(picture.tobytes()).digest() for picture in pictures]
        unread = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._kept}
        read = {key: self._kept[key] for key in keys if key in self._kept}
        read |= dict(zip(unread, self._ask(list(unread.values())), strict=True))
        for key in keys:  # the last used last
            self._kept.pop(key, None)
            self._kept[key] = read[key]
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return tuple(read[key] for key in keys)

    def _ask(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Reading]:
        layout = self._vlm.layout(priors=0)
        jobs = [EngineJob(pictures=(picture,), layout=layout, questions=self._questions) for picture in pictures]
        read = []
        for answers in self._engine.ask(jobs):
            shares = {key: self._calibrated(answer) for key, answer in answers.closed.items()}
            reading = np.asarray(reading_of(shares, self.head.vocabulary.findings))
            reading.setflags(write=False)
            read.append(reading)
        return read


def open_foresight(
    folder: Path,
    manifest: Manifest,
    vlm: Vlm,
    engine: Engine,
    calibrated: Callable[[ClosedAnswer], Mapping[str, float]],
) -> Foresight | None:
    """The prognosis head of a checkpoint with the model that reads its images; None where it has none or may say
    nothing. Raises CheckpointError."""
    head = read_head(folder)
    if head is None or not manifest.prognosis:
        return None
    return Foresight(
        vlm,
        engine,
        head,
        stated=manifest.prognosis_findings,
        calibrated=calibrated,
        floor=manifest.certainty_floor,
    )


def items_of_answers(
    calibrated: Mapping[str, Mapping[str, float]], findings: Sequence[str], floor: float
) -> tuple[PrognosisItem, ...]:
    """The same from a language model's own answers to prediction questions; what is and stays absent is not said."""
    items = []
    for key in findings:
        shares = calibrated.get(f"{QuestionType.PREDICTION.value}/{key}")
        best = likeliest(shares) if shares is not None else None
        if shares is not None and best is not None and best != NONE and shares[best] >= floor:
            items.append(PrognosisItem(key=key, change=Change(best), probability=shares[best]))
    return tuple(items)


def within_gap(study: StudyPair, longest: int | None) -> StudyPair:
    """The newest images of a study of which none is more than `longest` days older than the one after it; a gap of
    unknown length ends the course as well. longest: None for no limit."""
    if longest is None:
        return study
    # Days count back from the current image: newest first, two neighbours' difference is the gap between them.
    ages = [0, *study.days[::-1]]
    readable = 1
    for newer, older in pairwise(ages):
        if newer is None or older is None or older - newer > longest:
            break
        readable += 1
    return study.newest(readable)


def without_contradictions(items: Sequence[PrognosisItem], findings: Sequence[Finding]) -> tuple[PrognosisItem, ...]:
    """Leave out what contradicts the statements on the current image: only what is absent can be new, only what is
    present can stay, change or go; nothing is said of a finding that is abstained from."""
    presence = {finding.key: finding.presence for finding in findings}
    fits = {True: Presence.ABSENT, False: Presence.PRESENT}
    return tuple(item for item in items if presence.get(item.key) is fits[item.change is Change.NEW])


def reading_questions(findings: Sequence[str]) -> tuple[Question, ...]:
    """The questions on each image: presence, and the degree of findings that have one."""
    graded = [key for key in findings if ontology().findings[key].graded]
    return (
        *(closed_question(QuestionType.PRESENCE, key) for key in findings),
        *(closed_question(QuestionType.GRADE, key) for key in graded),
    )
