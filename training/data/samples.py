"""What the training loop is fed: images, questions with answers, and the targets of the auxiliary heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.errors import ModelError
from model.questions.answers import CHANGE_ANSWERS
from model.questions.battery import DIFFERENCE_TEXT, LONG_TAG, PREDICTION_TEXT
from model.questions.grammar import Tense, write_events
from model.questions.prompts import PromptLayout, Turn
from training.instructions.turns import FlaggedTurn, closed_turns, events_of_truth, lumen_turns, prediction_turns
from training.phantom.cache import Shard, read_shards
from training.phantom.render import PHANTOM_FINDINGS, PhantomPair, changes_between
from training.phantom.truth import truth_of_phantom
from training.records.drops import DropReport
from training.records.truth import PairTruth

UNKNOWN = -100
"""A change that is not known; the same number that the cross-entropy leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """Truth for the auxiliary heads, K findings; images in the order prior, current; NaN where not known.

    present, left, right, severity: float32 [2, K]. change: int64 [K], an index into CHANGE_ANSWERS or UNKNOWN.
    marks: uint8 [2, K, side, side], where the findings lie on the square picture (255: all of it), or None.
    """

    present: NDArray[np.float32]
    left: NDArray[np.float32]
    right: NDArray[np.float32]
    severity: NDArray[np.float32]
    change: NDArray[np.int64]
    marks: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Something that could not be shown and was replaced. pool: set and stream; which: image or record."""

    pool: str
    reason: str
    which: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One training sequence. images: uint8 [H, W], oldest first. turns: each asked on its own, not one after another,
    unless `conversation`. targets: None where there is no truth for the heads. dropped: what stood here before it."""

    images: tuple[NDArray[np.uint8], ...]
    layout: PromptLayout
    turns: tuple[Turn, ...]
    targets: Targets | None = None
    conversation: bool = False
    dropped: tuple[Dropped, ...] = ()


class SampleSource(Protocol):
    """An endless, seeded source: the same number gives the same sample, on every rank and after every restart."""

    findings: tuple[str, ...]

    def sample(self, number: int) -> Sample:
        """The sample with this number."""
        ...

    def films(self, count: int) -> NDArray[np.uint8]:
        """Some typical films, uint8 [count, size, size]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOptions:
    """Which turns of a pair are shown at once.

    negatives: how many findings that are on neither image are asked about. difference, lumen, prediction, long:
    probability that the open difference question, some of LUMEN's single-image questions, the prediction questions, the
    difference in report-style sentences (by rules) are among them.
    alone: probability that the current film is shown without its prior. swap: that the pair is shown in the other
    order. same: that the current film is shown as its own prior. turns: at most so many turns in one sequence.
    """

    negatives: int = 3
    difference: float = 0.4
    lumen: float = 0.25
    prediction: float = 0.1
    long: float = 0.0
    alone: float = 0.15
    swap: float = 0.5
    same: float = 0.04
    turns: int = 18


@dataclass(slots=True, kw_only=True)
class PhantomSource:
    """Phantom pairs of a cache folder, drawn with replacement; `heads_only` leaves the texts out."""

    folder: Path
    seed: int
    options: TurnOptions = field(default_factory=TurnOptions)
    heads_only: bool = False
    findings: tuple[str, ...] = PHANTOM_FINDINGS
    _shards: list[Shard] = field(default_factory=list)
    _pixels: dict[Path, tuple[NDArray[np.uint8], NDArray[np.uint8] | None]] = field(default_factory=dict)
    _starts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def __post_init__(self) -> None:
        self._shards = read_shards(self.folder)
        if not self._shards:
            raise ModelError(f"{self.folder}: no phantom pairs; make them with python -m training.phantom.cache")
        self._starts = np.cumsum([0, *(shard.pairs for shard in self._shards)])

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return int(self._starts[-1])

    def pair(self, index: int) -> tuple[PhantomPair, NDArray[np.uint8], NDArray[np.uint8] | None]:
        """Truth, both films uint8 [2, size, size], and where the findings lie, of one pair of the cache."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard = self._shards[number]
        if shard.path not in self._pixels:
            self._pixels[shard.path] = (shard.pixels(), shard.marks())
        place = index - int(self._starts[number])
        pixels, marks = self._pixels[shard.path]
        return shard.pair(place), np.asarray(pixels[place]), None if marks is None else np.asarray(marks[place])

    def unknown(self, index: int, pair: PhantomPair) -> frozenset[str]:
        """Findings of a pair that may be on one of its films without the phantom's doing."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._shards[number].unknown - (set(pair.prior) & set(pair.current))

    def films(self, count: int) -> NDArray[np.uint8]:
        """Current films spread over the cache."""
        places = np.linspace(0, self.pairs - 1, count).astype(int)
        return np.stack([self.pair(int(place))[1][1] for place in places])

    def sample(self, number: int) -> Sample:
        """Draw a pair, vary it, and choose its turns."""
        rng = np.random.default_rng([self.seed, number])
        index = int(rng.integers(self.pairs))
        pair, films, marks = self.pair(index)
        unknown = self.unknown(index, pair)
        order = [0, 1]
        if rng.random() < self.options.swap:
            pair, order = pair.swapped(), [1, 0]
        if rng.random() < self.options.same:
            pair, order = _same(pair), [order[1], order[1]]
        shown = [augment(films[place], None if marks is None else marks[place], rng) for place in order]
        alone = bool(rng.random() < self.options.alone)
        turns: tuple[Turn, ...] = ()
        of_prior = False
        if not self.heads_only:
            truth = without(truth_of_phantom(pair, str(number)), unknown)
            turns, of_prior = choose_turns(truth, self.options, rng, alone=alone)
        if of_prior:  # the prior film shown alone is the current one of its own sample
            pair, shown = pair.swapped(), shown[::-1]
        outlines = None if marks is None else np.stack([mark for _, mark in shown if mark is not None])
        images = tuple(film for film, _ in (shown[1:] if alone else shown))
        targets = replace(targets_of(pair, self.findings, alone=alone, unknown=unknown), marks=outlines)
        return Sample(images=images, layout=PromptLayout(priors=len(images) - 1), turns=turns, targets=targets)


def choose_turns(
    truth: PairTruth, options: TurnOptions, rng: Generator, *, alone: bool
) -> tuple[tuple[Turn, ...], bool]:
    """Turns of one sequence, and whether they are about the prior shown alone (predictions of what came after it)."""
    about_prior = alone and rng.random() < options.prediction * 2
    if about_prior:
        flagged = closed_turns(truth, alone="prior") + prediction_turns(truth)
        if (events := events_of_truth(truth)) is not None:
            flagged.append((Turn(question=PREDICTION_TEXT, answer=write_events(events, Tense.PREDICTION)), False))
    else:
        flagged = closed_turns(truth, alone="current") if alone else closed_turns(truth)
        if alone and rng.random() < options.lumen * 2:
            flagged += lumen_turns(truth, of="current")
        if not alone and rng.random() < options.difference and (events := events_of_truth(truth)) is not None:
            flagged.append((Turn(question=DIFFERENCE_TEXT, answer=write_events(events)), False))
        if options.long and not alone and rng.random() < options.long:
            flagged += long_turns(truth, rng)
    kept = [turn for turn, negative in flagged if not negative]
    dropped = [turn for turn, negative in flagged if negative]
    wanted = options.negatives * (1 if alone else 3)
    if dropped:
        kept += [dropped[int(index)] for index in rng.permutation(len(dropped))[:wanted]]
    order = rng.permutation(len(kept))[: options.turns]
    return tuple(kept[int(index)] for index in order), about_prior


def long_turns(truth: PairTruth, rng: Generator) -> list[FlaggedTurn]:
    """The difference in report-style sentences by the rules, in one of four manners; none where it cannot be said."""
    from training.instructions.rewrite import RuleWriter, rewrite  # brings the clients of text models along

    if (events := events_of_truth(truth)) is None:
        return []
    written = rewrite([("", write_events(events))], RuleWriter(int(rng.integers(4))), DropReport()).get("")
    return [] if written is None else [(Turn(question=f"{LONG_TAG}{DIFFERENCE_TEXT}", answer=written), False)]


def without(truth: PairTruth, unknown: frozenset[str]) -> PairTruth:
    """The truth without the findings of which nothing is known."""
    if not unknown:
        return truth
    return replace(truth, findings={key: value for key, value in truth.findings.items() if key not in unknown})


def _same(pair: PhantomPair) -> PhantomPair:
    """The current film as its own prior."""
    changes = changes_between(pair.current, pair.current)
    return replace(pair, prior=pair.current, prior_film=pair.current_film, changes=changes)


def targets_of(
    pair: PhantomPair, findings: Sequence[str], *, alone: bool = False, unknown: frozenset[str] = frozenset()
) -> Targets:
    """The exact truth of a phantom pair for the heads; with `alone`, of its current film only; without `unknown`."""
    count = len(findings)
    arrays = {name: np.full((2, count), np.nan, np.float32) for name in ("present", "left", "right", "severity")}
    change = np.full(count, UNKNOWN, np.int64)
    for place, states in ((0, pair.prior), (1, pair.current)):
        if alone and place == 0:
            continue
        for column, key in enumerate(findings):
            if key in unknown:
                continue
            state = states.get(key)
            arrays["present"][place, column] = state is not None
            arrays["severity"][place, column] = 0.0 if state is None else state.severity
            if state is not None and state.side is not None:
                arrays["left"][place, column] = state.on("left")
                arrays["right"][place, column] = state.on("right")
    if not alone:
        for column, key in enumerate(findings):
            if key in unknown:
                continue
            answer = pair.changes[key].value if key in pair.changes else "none"
            change[column] = CHANGE_ANSWERS.index(answer)
    return Targets(
        present=arrays["present"],
        left=arrays["left"],
        right=arrays["right"],
        severity=arrays["severity"],
        change=change,
    )


def augment(
    film: NDArray[np.uint8], marks: NDArray[np.uint8] | None, rng: Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """A little more variety than the cache holds: shift by up to 5 %, contrast, brightness. Never a mirror image.

    The outlines [K, side, side] move with the film, rounded to their raster.
    """
    size = film.shape[0]
    reach = round(size * 0.05)
    down, right = (int(value) for value in rng.integers(-reach, reach + 1, 2))
    moved = shifted(film, down, right)
    if marks is not None:
        scale = marks.shape[-1] / size
        marks = shifted(marks, round(down * scale), round(right * scale))
    gain, offset = rng.uniform(0.9, 1.1), rng.uniform(-14, 14)
    table = np.clip(np.arange(256) * gain + offset, 0, 255).astype(np.uint8)
    table[0] = 0  # padding stays black
    return table[moved], marks


def shifted(picture: NDArray[np.uint8], down: int, right: int) -> NDArray[np.uint8]:
    """The last two axes moved; what comes in is black."""
    rows, columns = picture.shape[-2:]
    moved = np.zeros_like(picture)
    moved[..., max(down, 0) : rows + min(down, 0), max(right, 0) : columns + min(right, 0)] = picture[
        ..., max(-down, 0) : rows + min(-down, 0), max(-right, 0) : columns + min(-right, 0)
    ]
    return moved
