"""Conversations: every answer is true and readable, streams show the right images, mixing and dropout hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.ontology import ontology
from model.questions.battery import PREDICTION_TEXT, QuestionType, battery, closed_question, parse_question
from model.questions.grammar import Tense, parse_events
from model.questions.prompts import render_conversation
from model.schema import Change, PatientContext
from training.instructions.mixing import mix_pools, mixing_weights, pools_of
from training.instructions.streams import Conversation, InstructionOptions, PredictionInputs, Stream, conversations
from training.instructions.turns import events_of_truth
from training.phantom.sampling import sample_pair
from training.phantom.scene import PHANTOM_FINDINGS
from training.phantom.truth import truth_of_phantom
from training.records.drops import DropReport
from training.records.record import Asked, ImageRef, Record, same_image, swapped
from training.records.truth import FindingTruth, ImageTruth, PairTruth

ALL = frozenset(Stream)
CLOSED = {q.text: q for q in battery(PHANTOM_FINDINGS, with_prior=True, prognosis=True)}


def phantom_record(seed: int, **fields: object) -> Record:
    record = Record(
        truth=truth_of_phantom(sample_pair(seed), f"pair-{seed}"),
        current=ImageRef(key=f"{seed}/current", image_id=f"{seed}c", view="PA"),
        prior=ImageRef(key=f"{seed}/prior", image_id=f"{seed}p", view="PA"),
    )
    return replace(record, **fields)  # type: ignore[arg-type]


def made(record: Record, seed: int = 0, **options: object) -> list[Conversation]:
    settings = InstructionOptions(**{"streams": ALL, **options})  # type: ignore[arg-type]
    return list(conversations(record, settings, np.random.default_rng(seed), DropReport()))


def check_answer(truth: PairTruth, question: str, answer: str) -> None:
    """The answer of one of our closed questions against the truth it came from."""
    asked = CLOSED[question]
    finding = truth.findings[asked.finding] if asked.finding else None
    if finding is None:
        assert answer in ("AP", "PA")
    elif asked.type is QuestionType.PRESENCE:
        assert finding.current is not None
        assert (answer == "yes") == finding.current.present
    elif asked.type is QuestionType.PRIOR_PRESENCE:
        assert finding.prior is not None
        assert (answer == "yes") == finding.prior.present
    elif asked.type in (QuestionType.CHANGE, QuestionType.PREDICTION):
        assert answer == (finding.change.value if finding.change else "none")
    elif asked.type is QuestionType.SIDE:
        assert finding.current is not None
        assert answer == finding.current.side
    elif asked.type is QuestionType.GRADE:
        assert finding.current is not None
        assert answer == finding.current.grade


@given(st.integers(0, 10_000))
def test_every_answer_on_a_pair_is_true(seed: int) -> None:
    record = phantom_record(seed)
    checked = 0
    for conversation in made(record, streams=frozenset({Stream.DIFFERENCE})):
        for turn in conversation.turns:
            assert turn.answer is not None
            if turn.question in CLOSED and CLOSED[turn.question].allowed:
                check_answer(record.truth, turn.question, turn.answer)
                assert turn.answer in (CLOSED[turn.question].allowed or ())
                checked += 1
            elif parse_question(turn.question) is not None:
                assert parse_events(turn.answer).events == events_of_truth(record.truth)
    assert checked >= 3 * len(PHANTOM_FINDINGS)


@given(st.integers(0, 10_000))
def test_prediction_shows_the_prior_alone_and_asks_in_the_future(seed: int) -> None:
    record = phantom_record(seed)
    (conversation,) = made(record, streams=frozenset({Stream.PREDICTION}))
    assert conversation.images == (record.prior,)
    assert conversation.layout.priors == 0
    for turn in conversation.turns:
        assert turn.answer is not None
        if turn.question == PREDICTION_TEXT:
            assert parse_events(turn.answer, Tense.PREDICTION).events == events_of_truth(record.truth)
        else:
            check_answer(record.truth, turn.question, turn.answer)
    (both,) = made(record, streams=frozenset({Stream.PREDICTION}), prediction_inputs=PredictionInputs.BOTH)
    assert both.images == (record.prior, record.current)


@given(st.integers(0, 10_000))
def test_a_single_image_is_never_asked_about_a_prior(seed: int) -> None:
    for conversation in made(phantom_record(seed), streams=frozenset({Stream.DIAGNOSTIC})):
        assert conversation.layout.priors == 0
        assert len(conversation.images) == 1
        assert not [turn for turn in conversation.turns if "prior" in turn.question or "reference" in turn.question]


def test_without_a_prior_only_the_diagnostic_stream_remains() -> None:
    pair = sample_pair(3)
    record = Record(truth=truth_of_phantom(pair, "single", with_prior=False), current=ImageRef(key="3", image_id="3c"))
    assert [c.stream for c in made(record)] == [Stream.DIAGNOSTIC]
    with pytest.raises(ValueError, match="disagree"):
        replace(record, prior=ImageRef(key="4", image_id="4"))


def test_published_questions_are_kept_to_the_letter_and_turned_into_predictions() -> None:
    answer = "the main image has an additional finding of edema than the reference image."
    record = phantom_record(
        1,
        truth=PairTruth(pair_id="p", patient_id="1", findings={}),
        asked=(
            Asked(type=QuestionType.PRESENCE, question="is there edema?", answer="yes"),
            Asked(type=QuestionType.DIFFERENCE, question="what has changed in the left area?", answer=answer),
            Asked(type=QuestionType.DIFFERENCE, question="what has changed?", answer="who knows."),
        ),
    )
    report = DropReport()
    options = InstructionOptions(streams=ALL)
    by_stream = {c.stream: c for c in conversations(record, options, np.random.default_rng(0), report)}
    assert [t.answer for t in by_stream[Stream.DIAGNOSTIC].turns] == ["yes"]
    assert {t.answer for t in by_stream[Stream.DIFFERENCE].turns} == {answer, "who knows."}
    (prediction,) = by_stream[Stream.PREDICTION].turns
    assert prediction.question == "what will have changed in the left area in the next image?"
    assert prediction.answer == "the next image will have an additional finding of edema."
    assert report.dropped["prediction: the difference answer does not parse"] == 1


def test_long_answers_carry_the_length_tag() -> None:
    record = phantom_record(1)
    options = InstructionOptions(streams=frozenset({Stream.LONG}))
    texts = {record.record_id: "Compared with the prior image nothing has changed."}
    (made_one,) = conversations(record, options, np.random.default_rng(0), DropReport(), long_answers=texts)
    assert made_one.turns[0].question.startswith("in one or two sentences, what has changed")
    parsed = parse_question(made_one.turns[0].question)
    assert parsed is not None
    assert parsed.type is QuestionType.DIFFERENCE


def test_the_expert_speaks_in_the_share_that_dropout_leaves() -> None:
    record = phantom_record(1, context=PatientContext(age_years=60))
    settings = InstructionOptions(expert=True, expert_dropout=0.25, context=True, context_dropout=1.0)
    rng, shown = np.random.default_rng(0), 0
    seen: list[tuple[ImageRef, ...]] = []

    def expert(images: object) -> str:
        seen.append(tuple(images))  # type: ignore[arg-type]
        return "expert: edema yes"

    for _ in range(200):
        for conversation in conversations(record, settings, rng, DropReport(), expert=expert):
            shown += conversation.layout.expert is not None
            assert conversation.layout.context is None
    assert 0.70 < shown / 600 < 0.80
    assert {len(images) for images in seen} == {1, 2}


def test_thinning_out_takes_negatives_only() -> None:
    record = phantom_record(11)
    everything = made(record, streams=frozenset({Stream.DIFFERENCE}))[0].turns
    thin = made(record, streams=frozenset({Stream.DIFFERENCE}), keep_negatives=0.0)[0].turns
    lost = {turn for turn in everything if turn not in thin}
    assert lost
    assert {turn.answer for turn in lost} == {"no", "none"}
    assert len(made(record, max_turns=5)[0].turns) == 5


def test_turn_order_is_shuffled_and_repeats_with_the_seed() -> None:
    record = phantom_record(5)
    assert made(record, seed=1) == made(record, seed=1)
    assert made(record, seed=1) != made(record, seed=2)


def test_more_than_two_images_come_oldest_first() -> None:
    earlier = tuple(ImageRef(key=f"e{n}", image_id=f"e{n}") for n in range(3))
    record = phantom_record(5, earlier=earlier)
    (conversation,) = made(record, streams=frozenset({Stream.DIFFERENCE}), max_images=4)
    assert [image.key for image in conversation.images] == ["e1", "e2", "5/prior", "5/current"]
    text = "".join(part for part, _ in render_conversation(conversation.layout, conversation.turns))
    assert text.count("<image>") == 4
    assert [len(c.images) for c in made(record, streams=frozenset({Stream.DIFFERENCE}))] == [2]


@given(st.integers(0, 10_000))
def test_swapping_and_repeating_an_image_keep_the_answers_true(seed: int) -> None:
    record = phantom_record(seed)
    back = swapped(record)
    assert back is not None
    assert (back.current, back.prior) == (record.prior, record.current)
    assert back.truth == truth_of_phantom(sample_pair(seed).swapped(), back.record_id)
    again = same_image(record)
    assert again.current == again.prior
    assert {f.change for f in again.truth.findings.values()} <= {None, Change.STABLE}
    assert events_of_truth(again.truth) is not None


def test_a_published_difference_is_inverted_or_the_swap_refused() -> None:
    level = "the level of edema has changed from mild to severe."
    truth = PairTruth(pair_id="p", patient_id="1", findings={})
    asked = Asked(
        type=QuestionType.DIFFERENCE, question="what has changed compared to the reference image?", answer=level
    )
    back = swapped(phantom_record(1, truth=truth, asked=(asked,)))
    assert back is not None
    assert back.asked[0].answer == "the level of edema has changed from severe to mild."
    unclear = replace(asked, answer="who knows.")
    assert swapped(phantom_record(1, truth=truth, asked=(unclear,))) is None


def test_a_published_degree_of_what_has_none_is_not_asked() -> None:
    findings = {
        key: FindingTruth(
            key=key, current=ImageTruth(present=True), prior=ImageTruth(present=True), change=Change.WORSENING
        )
        for key in ("calcification", "edema")
    }
    truth = PairTruth(pair_id="p", patient_id="1", findings=findings)
    for stream in (Stream.DIFFERENCE, Stream.PREDICTION):
        (conversation,) = made(phantom_record(1, truth=truth), streams=frozenset({stream}), lumen=False)
        assert [t.question for t in conversation.turns if t.answer == "worsening"] == [
            closed_question(
                QuestionType.CHANGE if stream is Stream.DIFFERENCE else QuestionType.PREDICTION, "edema"
            ).text
        ]


def test_temperature_balances_the_streams() -> None:
    counts = {Stream.DIAGNOSTIC: 8000, Stream.DIFFERENCE: 1000}
    assert mixing_weights(counts, 1)[Stream.DIFFERENCE] == pytest.approx(1 / 9)
    assert mixing_weights(counts, 3)[Stream.DIFFERENCE] == pytest.approx(1 / 3)
    assert mixing_weights({**counts, Stream.LONG: 0}, 1e9)[Stream.DIFFERENCE] == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="at least 1"):
        mixing_weights(counts, 0.5)


def test_mixing_goes_through_every_pool_before_it_repeats() -> None:
    pools = pools_of(c for seed in range(30) for c in made(phantom_record(seed)))
    assert set(pools) == {Stream.DIAGNOSTIC, Stream.DIFFERENCE, Stream.PREDICTION}
    drawn = list(mix_pools(pools, temperature=1e9, seed=1, length=900))
    share = Counter(c.stream for c in drawn)
    assert max(share.values()) - min(share.values()) < 90
    first_round = list(islice((c for c in drawn if c.stream is Stream.DIFFERENCE), 30))
    assert len({c.conversation_id for c in first_round}) == 30
    assert drawn == list(mix_pools(pools, temperature=1e9, seed=1, length=900))


def test_no_finding_of_the_ontology_is_left_without_words() -> None:
    assert {q.finding for q in battery(tuple(ontology().findings), with_prior=True)} >= set(ontology().findings)
