"""The engine gives the numbers of asking one by one, for one pair and for several."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from model.engine.answers import EngineJob, JobAnswers
from model.engine.engine import Engine, Strategy
from model.engine.plan import ancestor_mask, battery_tokens, pack_plan
from model.engine.vlm import NvilaVlm
from model.nvila import Tiling
from model.questions.battery import Question, QuestionType, battery
from tests.support.tiny_nvila import FINDINGS, picture, tiny_nvila

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def vlm() -> NvilaVlm:
    return NvilaVlm(*tiny_nvila(), Tiling.NEVER)


def job(vlm: NvilaVlm, *, priors: int = 1, seed: int = 0, expert: str | None = None) -> EngineJob:
    questions = battery(FINDINGS, with_prior=priors > 0)
    return EngineJob(
        pictures=tuple(picture(seed + number) for number in range(priors + 1)),
        layout=vlm.layout(priors=priors, expert=expert),
        questions=questions,
    )


def assert_same(left: JobAnswers, right: JobAnswers) -> None:
    assert left.closed.keys() == right.closed.keys()
    for key, answer in left.closed.items():
        expected = right.closed[key]
        np.testing.assert_allclose(answer.log_probabilities, expected.log_probabilities, atol=TOLERANCE, err_msg=key)
        shares = list(answer.probabilities().values())
        np.testing.assert_allclose(shares, list(expected.probabilities().values()), atol=TOLERANCE, err_msg=key)
    assert {key: answer.text for key, answer in left.open.items()} == {
        key: answer.text for key, answer in right.open.items()
    }


@pytest.mark.parametrize("priors", [0, 1, 3])
def test_shared_prefix_equals_one_by_one(vlm: NvilaVlm, priors: int) -> None:
    asked = job(vlm, priors=priors)
    engine = Engine(vlm, max_new_tokens=12)
    together = engine.ask([asked])[0]
    assert engine.strategy is Strategy.PACKED
    assert len(together.closed) > 10
    assert bool(together.open) == (priors > 0)
    assert_same(together, engine.ask_plainly(asked))


def test_answers_depend_on_pictures_and_their_order(vlm: NvilaVlm) -> None:
    engine = Engine(vlm, max_new_tokens=1)
    first, other = job(vlm), job(vlm, seed=50)
    swapped = EngineJob(pictures=first.pictures[::-1], layout=first.layout, questions=first.questions)
    answers = engine.ask([first, other, swapped])
    key = "change/edema"
    numbers = [answer.closed[key].log_probabilities for answer in answers]
    assert not np.allclose(numbers[0], numbers[1], atol=1e-3)
    assert not np.allclose(numbers[0], numbers[2], atol=1e-3)


def test_several_pairs_with_prefixes_of_unequal_length(vlm: NvilaVlm) -> None:
    """One batch of pairs, one of them without a prior and one with a longer text, gives each its own numbers."""
    jobs = [job(vlm), job(vlm, seed=10), job(vlm, priors=0, seed=20), job(vlm, seed=30, expert="edema yes")]
    engine = Engine(vlm, max_new_tokens=8)
    for together, asked in zip(engine.ask(jobs), jobs, strict=True):
        assert_same(together, engine.ask([asked])[0])


def test_late_questions_are_answered_for_the_jobs_that_want_them(vlm: NvilaVlm) -> None:
    whole = [job(vlm, seed=seed) for seed in (0, 10, 20)]
    late = tuple(q for q in whole[0].questions if q.type in (QuestionType.SIDE, QuestionType.GRADE))
    assert len(late) > 2
    wanted = ({late[0].key}, {late[1].key, late[2].key}, set[str]())

    def wants(keys: set[str], answers: JobAnswers) -> set[str]:
        return keys if "presence/edema" in answers.closed else set()

    jobs = [
        replace(
            each,
            questions=tuple(question for question in each.questions if question not in late),
            late=late,
            follow_ups=partial(wants, keys),
        )
        for each, keys in zip(whole, wanted, strict=True)
    ]
    engine = Engine(vlm, max_new_tokens=4)
    for answers, each, keys in zip(engine.ask(jobs), whole, wanted, strict=True):
        expected = engine.ask([each])[0]
        unasked = {question.key for question in late} - keys
        expected.closed = {key: answer for key, answer in expected.closed.items() if key not in unasked}
        assert_same(answers, expected)


def test_padded_prefixes_in_one_batch(vlm: NvilaVlm) -> None:
    """Prefixes of unequal length read in one padded batch score as each does alone."""
    engine = Engine(vlm)
    short, long = job(vlm), job(vlm, seed=30)
    long = EngineJob(
        pictures=long.pictures, layout=vlm.layout(priors=1, context="patient: 67 years, F"), questions=long.questions
    )
    tokens = [battery_tokens(vlm, asked.layout, asked.questions) for asked in (short, long)]
    rows = [engine._prefix_inputs(asked, part) for asked, part in zip((short, long), tokens, strict=True)]
    assert rows[0]["input_ids"].shape != rows[1]["input_ids"].shape
    closed = [entry for entry in tokens[0].questions if entry.answers]
    with torch.inference_mode():
        alone = [engine._score(engine._read_prefix([asked]), closed)[0] for asked in (short, long)]
        prefix = engine._read_prefix([short, long])
        together = engine._score(prefix, closed)
    for expected, found in zip(alone, together, strict=True):
        for left, right in zip(expected, found, strict=True):
            np.testing.assert_allclose(left, right, atol=TOLERANCE)


def test_repeated_cache_equals_packed(vlm: NvilaVlm) -> None:
    asked = job(vlm)
    packed = Engine(vlm, max_new_tokens=4).ask([asked])[0]
    rows = Engine(vlm, strategy=Strategy.ROWS, max_new_tokens=4).ask([asked])[0]
    assert_same(rows, packed)


def test_difference_placeholder_is_asked_the_same_way() -> None:
    model, processor = tiny_nvila(longitudinal={"difference_tokens": 4})
    vlm = NvilaVlm(model, processor, Tiling.NEVER)
    asked = job(vlm)
    assert asked.layout.difference
    engine = Engine(vlm, max_new_tokens=4)
    assert_same(engine.ask([asked])[0], engine.ask_plainly(asked))


def test_eager_attention_equals_sdpa(vlm: NvilaVlm) -> None:
    eager = NvilaVlm(*tiny_nvila(attention="eager"), Tiling.NEVER)
    assert eager.model.llm.config._attn_implementation == "eager"
    assert_same(Engine(eager, max_new_tokens=4).ask([job(vlm)])[0], Engine(vlm, max_new_tokens=4).ask([job(vlm)])[0])


def test_answers_of_unequal_length_share_their_beginning(vlm: NvilaVlm) -> None:
    question = Question(
        key="grade/x",
        type=QuestionType.GRADE,
        text="how severe is edema in the current image?",
        allowed=("moderate", "moderate to severe", "mild", "mild to moderate"),
    )
    asked = EngineJob(pictures=(picture(1), picture(2)), layout=vlm.layout(priors=1), questions=(question,))
    engine = Engine(vlm)
    assert_same(engine.ask([asked])[0], engine.ask_plainly(asked))
    tokens = battery_tokens(vlm, asked.layout, asked.questions)
    plan = pack_plan(tokens.questions)
    assert plan.token_count < len(tokens.questions[0].suffix) + sum(len(row) - 1 for row in tokens.questions[0].answers)


def test_questions_that_begin_alike_share_the_beginning(vlm: NvilaVlm) -> None:
    asked = job(vlm)
    closed = [entry for entry in battery_tokens(vlm, asked.layout, asked.questions).questions if entry.answers]
    paths = {
        (*entry.suffix, *answer[:-1])[:length]
        for entry in closed
        for answer in entry.answers
        for length in range(1, len(entry.suffix) + len(answer))
    }
    whole = pack_plan(closed, width=10_000)
    assert whole.ids.shape[0] == 1
    assert whole.token_count == len(paths)
    assert pack_plan([*closed, closed[0]], width=10_000).token_count == len(paths)
    narrow = pack_plan(closed, width=64)
    assert narrow.ids.shape[0] > 1
    assert narrow.answers == whole.answers
    assert sorted(zip(narrow.owners.tolist(), narrow.targets.tolist(), strict=True)) == sorted(
        zip(whole.owners.tolist(), whole.targets.tolist(), strict=True)
    )


def test_width_of_rows_changes_no_number(vlm: NvilaVlm) -> None:
    asked = job(vlm)
    closed = [entry for entry in battery_tokens(vlm, asked.layout, asked.questions).questions if entry.answers]
    expected = Engine(vlm, max_new_tokens=4).ask([asked])[0]
    for width in (1, 40, 10_000):
        engine = Engine(vlm, max_new_tokens=4)
        engine._plans[tuple(closed)] = pack_plan(closed, width)
        assert_same(engine.ask([asked])[0], expected)


def test_no_question_sees_another() -> None:
    mask = ancestor_mask([-1, 0, 1, 1, -1, 4])
    assert mask.tolist() == [
        [True, False, False, False, False, False],
        [True, True, False, False, False, False],
        [True, True, True, False, False, False],
        [True, True, False, True, False, False],
        [False, False, False, False, True, False],
        [False, False, False, False, True, True],
    ]


def test_probabilities_are_normalised_and_sharpened_by_temperature(vlm: NvilaVlm) -> None:
    answer = Engine(vlm).ask([job(vlm)])[0].closed["change/edema"]
    assert sum(answer.probabilities().values()) == pytest.approx(1.0)
    assert max(answer.probabilities(0.1).values()) >= max(answer.probabilities().values())
    assert max(answer.probabilities(1e6).values()) == pytest.approx(1 / 6, abs=1e-3)
