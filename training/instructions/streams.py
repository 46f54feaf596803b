"""Records → conversations: the streams of the recipe (diagnostic, difference, prediction, long answers, expert text).

A conversation is what one training sequence shows: images in order, optional texts, and turns of question and answer.
The texts come from `model.questions.battery` and `model.questions.prompts` alone, so that serving asks what
training taught.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from model.questions.battery import (
    DIFFERENCE_TEXT,
    LONG_TAG,
    PREDICTION_BOTH_TEXT,
    PREDICTION_TEXT,
    QuestionType,
    lumen_question,
    parse_question,
)
from model.questions.grammar import Tense, parse_events, write_events
from model.questions.prompts import PromptLayout, Turn, context_text
from training.instructions.turns import FlaggedTurn, events_of_truth, lumen_turns, make_closed_turns, prediction_turns
from training.records.drops import DropReport
from training.records.record import ImageRef, Record, days_between
from training.records.truth import PairTruth


class Stream(StrEnum):
    """The subject that a conversation teaches; the names of LUMEN's streams."""

    DIAGNOSTIC = "diagnostic"
    """A: one image; presence, view, place, degree."""
    DIFFERENCE = "difference"
    """B: two images (or more); what has changed."""
    PREDICTION = "prediction"
    """C: what the next image will show."""
    LONG = "long"
    """D: the difference in one or two report-style sentences."""


class PredictionInputs(StrEnum):
    """The images of a pair that stream C shows. Where a record knows its future, those up to the current one are
    shown."""

    PRIOR_ONLY = "prior_only"
    """The earlier image alone: a true prediction."""
    BOTH = "both"
    """Both images; the question is in the future tense, the answer is on the second image."""


ExpertText = Callable[[Sequence[ImageRef]], str | None]
"""Images in order → the expert's text, None where the expert has none (stream E)."""
LongAnswers = Mapping[str, str]
"""Record id → the accepted long answer (`training.instructions.rewrite`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionOptions:
    """The options that decide which conversations are made.

    closed: our scored questions; lumen: LUMEN's templates of one image; difference: the open questions on change,
    written from labels where none is published (None: as lumen). keep_negatives: share kept of the turns on findings
    that are on no image. negatives: at most this many of them of one image, three times as many of a pair; None: no
    bound. max_turns: of one conversation, drawn at random; None: all. times: say the days between the images where they
    are known. expert_dropout: share of conversations shown without the expert's text, so that the model also works
    without. context_dropout: the same for the context. max_images: 2 for pairs; more lets earlier images of a record
    in. rule_answers: long answers by the rules (`training.instructions.rewrite.RuleWriter`) where none is given.
    """

    streams: frozenset[Stream] = frozenset({Stream.DIAGNOSTIC, Stream.DIFFERENCE})
    prediction_inputs: PredictionInputs = PredictionInputs.PRIOR_ONLY
    closed: bool = True
    lumen: bool = True
    difference: bool | None = None
    times: bool = False
    keep_negatives: float = 1.0
    negatives: int | None = None
    max_turns: int | None = None
    expert: bool = False
    expert_dropout: float = 0.5
    context: bool = False
    context_dropout: float = 0.5
    max_images: int = 2
    rule_answers: bool = False

    @property
    def asks_difference(self) -> bool:
        """Tell whether open questions on change are written from labels."""
        return self.lumen if self.difference is None else self.difference

    def __post_init__(self) -> None:
        for name in ("keep_negatives", "expert_dropout", "context_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1")
        if self.max_images < 1 or (self.max_turns is not None and self.max_turns < 1):
            raise ValueError("max_images and max_turns are at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One training sequence. images: in the order of the layout's image slots (a difference slot has no image)."""

    conversation_id: str
    stream: Stream
    images: tuple[ImageRef, ...]
    layout: PromptLayout
    turns: tuple[Turn, ...]


def conversations(
    record: Record,
    options: InstructionOptions,
    rng: np.random.Generator,
    report: DropReport,
    *,
    expert: ExpertText | None = None,
    long_answers: LongAnswers | None = None,
) -> Iterator[Conversation]:
    """Every conversation of one record, turns in random order. What cannot be asked is counted in `report`."""
    for stream, images, turns in _parts(record, options, report, long_answers or {}):
        chosen = _choose(turns, options, rng, most_negatives=_most_negatives(stream, options))
        if not chosen:
            report.drop(f"{stream.value}: no turn left", record.record_id)
            continue
        report.keep()
        show_expert = options.expert and expert is not None and rng.random() >= options.expert_dropout
        # What the chart says was written with the current image: beside an older one it would tell the future.
        show_context = options.context and images[-1] == record.current and rng.random() >= options.context_dropout
        shown = f"/{len(images)}" if stream is Stream.PREDICTION and record.future is not None else ""
        yield Conversation(
            conversation_id=f"{record.record_id}/{stream.value}/{images[-1].image_id}{shown}",
            stream=stream,
            images=images,
            layout=PromptLayout(
                priors=len(images) - 1,
                days=days_between(images) if options.times else (),
                expert=expert(images) if show_expert and expert is not None else None,
                context=context_text(record.context) if show_context else None,
            ),
            turns=chosen,
        )


_Part = tuple[Stream, tuple[ImageRef, ...], list[FlaggedTurn]]


def _parts(
    record: Record, options: InstructionOptions, report: DropReport, long_answers: LongAnswers
) -> Iterator[_Part]:
    """(stream, images, turns with their negative flag) of every stream that is wanted and possible."""
    if Stream.DIAGNOSTIC in options.streams:
        yield from _diagnostic(record, options)
    if Stream.PREDICTION in options.streams and record.future is not None:
        yield from _foretold(record, record.future, options)
    # All that follows is asked of a pair.
    if record.prior is None:
        return
    earlier = record.earlier[max(0, len(record.earlier) - (options.max_images - 2)) :] if options.max_images > 2 else ()
    images = (*earlier, record.prior, record.current)
    if Stream.DIFFERENCE in options.streams:
        yield Stream.DIFFERENCE, images, _difference(record, options)
    if Stream.PREDICTION in options.streams and record.future is None:
        both = options.prediction_inputs is PredictionInputs.BOTH
        yield (
            Stream.PREDICTION,
            (record.prior, record.current) if both else (record.prior,),
            _prediction(record, options, report),
        )
    if Stream.LONG in options.streams:
        answer = long_answers.get(record.record_id) or (_rule_answer(record) if options.rule_answers else None)
        if answer is not None:
            yield (
                Stream.LONG,
                images,
                [(Turn(question=f"{LONG_TAG}{_difference_question(record)}", answer=answer), False)],
            )


def _foretold(record: Record, future: PairTruth, options: InstructionOptions) -> Iterator[_Part]:
    """Parts on the next image, asked of the current one, of it with its prior, and of as many as are let in."""
    turns = prediction_turns(future) if options.closed else []
    if options.asks_difference and (events := events_of_truth(future)) is not None:
        turns.append((Turn(question=PREDICTION_TEXT, answer=write_events(events, Tense.PREDICTION)), False))
    # A set, since with few images the three are the same.
    for count in sorted({1, min(2, len(record.images)), min(options.max_images, len(record.images))}):
        yield Stream.PREDICTION, record.images[-count:], list(turns)


def _diagnostic(record: Record, options: InstructionOptions) -> Iterator[_Part]:
    """The current image with its published questions; with a labelled prior, that image alone as well."""
    published = [
        (Turn(question=item.question, answer=item.answer), False)
        for item in record.asked
        if item.type is not QuestionType.DIFFERENCE
    ]
    for image, own in ((record.current, True), (record.prior, False)):
        if image is None:
            continue
        turns = list(published) if own else []
        if options.closed:
            turns += make_closed_turns(record.truth, alone="current" if own else "prior")
        if options.lumen:
            turns += lumen_turns(record.truth, of="current" if own else "prior")
        if turns:
            yield Stream.DIAGNOSTIC, (image,), turns


def _rule_answer(record: Record) -> str | None:
    """The difference in report-style sentences by the rules, in one of four manners that the record's id chooses."""
    from training.instructions.rewrite import RuleWriter, rewrite  # brings the clients of text models along

    events = events_of_truth(record.truth)
    if events is None:
        return None
    return rewrite([("", write_events(events))], RuleWriter(sum(record.record_id.encode()) % 4), DropReport()).get("")


def _difference_question(record: Record) -> str:
    published = [item.question for item in record.asked if item.type is QuestionType.DIFFERENCE]
    return published[0] if published else DIFFERENCE_TEXT


def _difference(record: Record, options: InstructionOptions) -> list[FlaggedTurn]:
    turns = [
        (Turn(question=item.question, answer=item.answer), False)
        for item in record.asked
        if item.type is QuestionType.DIFFERENCE
    ]
    if options.closed:
        turns += make_closed_turns(record.truth)
    # A published answer goes before ours, which would say the same in other words.
    if options.asks_difference and not _is_published(record):
        events = events_of_truth(record.truth)
        if events is not None:
            turns.append((Turn(question=_difference_question(record), answer=write_events(events)), False))
    return turns


def _is_published(record: Record) -> bool:
    """Tell whether the record brings its own difference question: then none is derived from its labels."""
    return any(item.type is QuestionType.DIFFERENCE for item in record.asked)


def _prediction(record: Record, options: InstructionOptions, report: DropReport) -> list[FlaggedTurn]:
    both = options.prediction_inputs is PredictionInputs.BOTH
    turns: list[FlaggedTurn] = []
    if options.closed and not both:
        turns += prediction_turns(record.truth)
    question = PREDICTION_BOTH_TEXT if both else PREDICTION_TEXT
    for item in record.asked:
        if item.type is not QuestionType.DIFFERENCE:
            continue
        asked, parsed = parse_question(item.question), parse_events(item.answer)
        area = asked.location if asked is not None else None
        if not parsed.complete:
            report.drop("prediction: the difference answer does not parse", record.record_id)
        # LUMEN's question on both images has no form for an area.
        elif area is not None and both:
            report.drop("prediction: no question about an area of both images", record.record_id)
        else:
            text = lumen_question(QuestionType.PREDICTION, 1, location=area) if area is not None else question
            turns.append((Turn(question=text, answer=write_events(parsed.events, Tense.PREDICTION)), False))
    # From labels only where the set publishes no difference answer: two answers to one question could contradict.
    if options.asks_difference and not _is_published(record):
        events = events_of_truth(record.truth)
        if events is not None:
            turns.append((Turn(question=question, answer=write_events(events, Tense.PREDICTION)), False))
    return turns


def _most_negatives(stream: Stream, options: InstructionOptions) -> int | None:
    """The limit of turns on what is on no image. A pair is asked of each finding three times; predictions are all
    kept, because thinning them out would teach wrong probabilities."""
    if options.negatives is None or stream is Stream.PREDICTION:
        return None
    return options.negatives * (1 if stream is Stream.DIAGNOSTIC else 3)


def _choose(
    turns: Sequence[FlaggedTurn],
    options: InstructionOptions,
    rng: np.random.Generator,
    *,
    most_negatives: int | None,
) -> tuple[Turn, ...]:
    """The turns that are kept, in random order: no question may come to rely on the one before it."""
    kept = [turn for turn, negative in turns if not negative]
    absent = [turn for turn, negative in turns if negative and rng.random() < options.keep_negatives]
    if most_negatives is not None:
        absent = [absent[number] for number in rng.permutation(len(absent))[:most_negatives]]
    kept += absent
    # Cut after the shuffle: which turns are kept is chance as well.
    order = rng.permutation(len(kept))[: options.max_turns]
    return tuple(kept[number] for number in order)
