"""Images and questions for the arms of the study: streams over cached phantom pairs, and the noisy expert.

The study asks about four findings of the lung fields and the heart. The other findings of the phantoms are on the films
as well, but nothing is asked or said of them: at the study's size of picture the small ones cannot be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.experts.expert import expert_text
from model.ontology import ontology
from model.questions.battery import DIFFERENCE_TEXT, LONG_TAG, PREDICTION_BOTH_TEXT, PREDICTION_TEXT
from model.questions.grammar import Event, Tense, write_events
from model.questions.prompts import PromptLayout, Turn
from training.data.samples import Sample, Targets, augment
from training.data.targets import VisibleImages as ShownImages
from training.data.targets import targets_of_truth
from training.instructions.rewrite import RuleWriter, rewrite
from training.instructions.turns import FlaggedTurn, events_of_truth, lumen_turns, make_closed_turns, prediction_turns
from training.phantom.cache import PhantomCache
from training.phantom.render import PHANTOM_FINDINGS, PhantomPair
from training.phantom.scene import GRADED
from training.phantom.truth import truth_of_phantom
from training.records.drops import DropReport
from training.records.truth import PairTruth

STUDY_FINDINGS = ("pleural_effusion", "consolidation", "edema", "cardiomegaly")
"""Findings that are asked about, in ontology order; all have a degree."""
HEAD_FINDINGS = tuple(key for key in GRADED if key != "lung_nodule")
"""Findings that the heads of the common start know."""
EXPERT_FLIPS = 0.15
"""Share of the expert's labels that are wrong, drawn for each finding of each image."""
EXPERT_DROPOUT = 0.5
"""Share of training sequences that are shown without the expert's text."""
Shown = Literal["prior", "current"]
TURNS = 5
"""Turns of one training sequence."""
NEGATIVES = 2
"""Of them at most so many on findings that are on none of the images shown, in single-image sequences."""


class ArmStream(StrEnum):
    """The streams that an arm learns from, in the order in which the arms add them; the names of LUMEN's streams."""

    DIAGNOSTIC = "diagnostic"
    """One image: the six published types, and our closed questions."""
    DIFFERENCE = "difference"
    """Both images: what has changed, and our closed questions on change and on each image."""
    PREDICTION = "prediction"
    """Future changes: asked of the prior alone, and of both images in the future tense."""
    LONG = "long"
    """Both images: the difference in report-style sentences."""
    EXPERT = "expert"
    """An expert's text on each image before the question, in half of the sequences."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArmPair:
    """One pair as the study shows it. films: uint8 [2, side, side], prior first. marks: outlines or None."""

    pair: PhantomPair
    truth: PairTruth
    films: NDArray[np.uint8]
    marks: NDArray[np.uint8] | None


@dataclass(slots=True, kw_only=True)
class StudyPhantoms:
    """The pairs of a cache folder at the study's size. side: of the square pictures; divides the cache's size."""

    folder: Path
    side: int
    _cache: PhantomCache = field(init=False)

    def __post_init__(self) -> None:
        self._cache = PhantomCache(folder=self.folder)
        size = self._cache.course(0)[1].shape[-1]
        if size % self.side:
            raise ValueError(f"{self.folder}: pictures of {size} pixels cannot be reduced to {self.side} evenly")

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        return self._cache.courses

    def pair(self, index: int, *, swap: bool = False) -> ArmPair:
        """One pair; swap: in the other order."""
        course, films, marks = self._cache.course(index)
        pair = course.pair()
        order = [1, 0] if swap else [0, 1]
        pair = pair.swapped() if swap else pair
        truth = truth_of_phantom(pair, f"phantom/{index}{'/swapped' if swap else ''}")
        return ArmPair(
            pair=pair,
            truth=replace(truth, findings={key: truth.findings[key] for key in STUDY_FINDINGS}),
            films=average_down(films, self.side)[order],
            marks=None if marks is None else marks[order][:, [PHANTOM_FINDINGS.index(key) for key in HEAD_FINDINGS]],
        )


def average_down(films: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Films [..., size, size] averaged down to [..., side, side]; size is a multiple of side."""
    factor = films.shape[-1] // side
    if factor == 1:
        return films
    blocks = films.reshape(*films.shape[:-2], side, factor, side, factor)
    return np.asarray(blocks.mean(axis=(-3, -1)).round().astype(np.uint8))


def oracle_row(truth: PairTruth, image: Shown, rng: Generator) -> NDArray[np.float64]:
    """The opinion of the study's expert on one image: the true labels as probabilities, turned round at EXPERT_FLIPS.

    No classifier stands behind it. It is as good at hidden things as at plain ones, and its errors are independent of
    the picture: both kinder than a real expert.
    """
    states = [getattr(truth.findings[key], image) for key in STUDY_FINDINGS]
    right = np.array([state is not None and state.present for state in states])
    return np.where(right ^ (rng.random(len(right)) < EXPERT_FLIPS), 0.9, 0.1)


def oracle_text(rows: Sequence[NDArray[np.float64]]) -> str:
    """The expert's line of the prompt; rows: one for each image that is shown, the current one last."""
    return expert_text(np.stack(rows), [ontology().findings[key].name for key in STUDY_FINDINGS])


@dataclass(slots=True, kw_only=True)
class ArmSource:
    """Training sequences of one arm; the same number gives the same one. heads_only: no texts, both films."""

    phantoms: StudyPhantoms
    streams: frozenset[ArmStream]
    seed: int
    heads_only: bool = False
    findings: tuple[str, ...] = HEAD_FINDINGS

    def films(self, count: int) -> NDArray[np.uint8]:
        """Current films spread over the cache."""
        places = np.linspace(0, self.phantoms.pairs - 1, count).astype(int)
        return np.stack([self.phantoms.pair(int(index)).films[1] for index in places])

    def sample(self, number: int) -> Sample:
        """Draw a pair, vary it, choose which images are shown and what is asked of them."""
        # From its number alone, so that any worker on any rank gives the same sample.
        rng = np.random.default_rng([self.seed, number])
        shown = self.phantoms.pair(int(rng.integers(self.phantoms.pairs)), swap=bool(rng.random() < 0.5))
        varied = [augment(shown.films[i], None if shown.marks is None else shown.marks[i], rng) for i in (0, 1)]
        marks = None if shown.marks is None else np.stack([mark for _, mark in varied if mark is not None])
        if self.heads_only:
            targets = replace(self._known(shown.pair, ShownImages.PAIR), marks=marks)
            films = tuple(film for film, _ in varied)
            return Sample(images=films, layout=PromptLayout(priors=1), turns=(), targets=targets)
        stream = self._draw(rng)
        turns = chosen(turns_of(shown.truth, stream, self.streams, rng), rng)
        alone = stream in (ArmStream.DIAGNOSTIC, ArmStream.PREDICTION)
        expert = None
        # The expert's lines are left out at times: the model must read the film without them as well.
        if ArmStream.EXPERT in self.streams and rng.random() >= EXPERT_DROPOUT:
            images: tuple[Shown, ...] = ("prior", "current")
            if alone:
                images = ("prior",) if stream is ArmStream.PREDICTION else ("current",)
            expert = oracle_text([oracle_row(shown.truth, image, rng) for image in images])
        targets = self._targets(shown.pair, marks, of_prior=stream is ArmStream.PREDICTION, alone=alone)
        # Prediction sees the prior alone; otherwise the last image (alone) or both: [-1:] or [-2:].
        films = (varied[0][0],) if stream is ArmStream.PREDICTION else tuple(film for film, _ in varied)[-2 + alone :]
        layout = PromptLayout(priors=0 if alone else 1, expert=expert)
        return Sample(images=films, layout=layout, turns=turns, targets=targets)

    def _draw(self, rng: Generator) -> ArmStream:
        """Half of the sequences show a pair where the arm learns from pairs; a third of the others foretell."""
        if ArmStream.DIFFERENCE in self.streams and rng.random() < 0.5:
            return ArmStream.DIFFERENCE
        if ArmStream.PREDICTION in self.streams and rng.random() < 1 / 3:
            return ArmStream.PREDICTION
        return ArmStream.DIAGNOSTIC

    def _targets(self, pair: PhantomPair, marks: NDArray[np.uint8] | None, *, of_prior: bool, alone: bool) -> Targets:
        """For the heads: of what is shown; a prior shown alone is the current image of its own sequence."""
        shown = ShownImages.PRIOR if of_prior else ShownImages.CURRENT if alone else ShownImages.PAIR
        targets = self._known(pair, shown)
        return replace(targets, marks=marks[::-1].copy() if of_prior and marks is not None else marks)

    def _known(self, pair: PhantomPair, shown: ShownImages) -> Targets:
        return targets_of_truth(truth_of_phantom(pair, "phantom"), self.findings, shown)


def turns_of(
    truth: PairTruth, stream: ArmStream, streams: frozenset[ArmStream], rng: Generator
) -> tuple[list[Turn], list[FlaggedTurn]]:
    """Turns of one sequence: those that must be there, and those to choose from."""
    events = events_of_truth(truth)
    if stream is ArmStream.DIAGNOSTIC:
        return [], lumen_turns(truth, of="current") + make_closed_turns(truth, alone="current")
    if stream is ArmStream.PREDICTION:
        foretold = [] if events is None else [_write_turn(PREDICTION_TEXT, events, Tense.PREDICTION)]
        return foretold, prediction_turns(truth)
    if events is None:
        return [], make_closed_turns(truth)
    written = [_write_turn(DIFFERENCE_TEXT, events, Tense.DIFFERENCE)]
    if ArmStream.PREDICTION in streams:
        written.append(_write_turn(PREDICTION_BOTH_TEXT, events, Tense.PREDICTION))
    if ArmStream.LONG in streams and (answer := write_long_answer(events, rng)) is not None:
        written.append(Turn(question=f"{LONG_TAG}{DIFFERENCE_TEXT}", answer=answer))
    return written, make_closed_turns(truth)


def _write_turn(question: str, events: tuple[Event, ...], tense: Tense) -> Turn:
    return Turn(question=question, answer=write_events(events, tense))


def write_long_answer(events: tuple[Event, ...], rng: Generator) -> str | None:
    """A report-style sentence by the rules, in one of four manners; None where it could not be read back."""
    writer = RuleWriter(int(rng.integers(4)))
    return rewrite([("", write_events(events))], writer, DropReport()).get("")


def chosen(turns: tuple[list[Turn], list[FlaggedTurn]], rng: Generator) -> tuple[Turn, ...]:
    """The wanted turns and as many of the others as there is room for, in random order."""
    open_turns, others = turns
    positive = [turn for turn, negative in others if not negative]
    negative = [turn for turn, is_negative in others if is_negative]
    some = [negative[int(index)] for index in rng.permutation(len(negative))[:NEGATIVES]]
    pool = positive + some
    picked = [pool[int(index)] for index in rng.permutation(len(pool))[: max(TURNS - len(open_turns), 0)]]
    everything = open_turns + picked
    return tuple(everything[int(index)] for index in rng.permutation(len(everything)))
