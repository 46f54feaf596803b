"""Which tokens a set of questions needs: the shared prefix, each question's own tokens and the trie of its answers.

No model runs here. A plan depends on the texts alone, so it is made once for a battery and used for every pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import InferenceError
from model.prompts import PromptLayout
from model.questions import Question
from model.vlm import Vlm


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionTokens:
    """One question as tokens. suffix: what follows the shared prefix. answers: one row for each allowed answer, its
    end token included; empty for an open question."""

    question: Question
    suffix: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatteryTokens:
    """All questions of one layout.

    first_prompt: the whole text of the first question, which the processor turns into the prefix.
    first_suffix: how many of its last tokens are not prefix.
    """

    first_prompt: str
    first_suffix: tuple[int, ...]
    questions: tuple[QuestionTokens, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedPlan:
    """All closed questions as one row of tokens behind the prefix.

    ids [S]. offsets [S]: position of each token, counted from the end of the prefix; every question starts again at 0.
    mask [S, S]: which tokens of the row a token sees beside the prefix: its own question up to itself, and of that
    question's answers only its own. rows [K]: tokens whose logits are needed. For each answer token: `sources` its
    place in rows, `targets` its id, `owners` the number of its answer; `answers`: how many answers each question has.
    """

    ids: Tensor
    offsets: Tensor
    mask: Tensor
    rows: Tensor
    sources: Tensor
    targets: Tensor
    owners: Tensor
    answers: tuple[int, ...]


def battery_tokens(vlm: Vlm, layout: PromptLayout, questions: Sequence[Question]) -> BatteryTokens:
    """Tokenise every question after the last image and part them where they begin to differ."""
    prompts = [vlm.prompt(layout, question.text) for question in questions]
    tails = [_tail(prompt, vlm.placeholder) for prompt in prompts]
    rows = [vlm.token_ids(tail) for tail in tails]
    shared = common_length(rows)
    entries = []
    for question, tail, row in zip(questions, tails, rows, strict=True):
        answers = [
            _answer_ids(vlm, tail, row, vlm.continuation(layout, question.text, answer))
            for answer in question.allowed or ()
        ]
        if len(set(answers)) != len(answers):
            raise InferenceError(f"{question.key}: two allowed answers are the same tokens")
        entries.append(QuestionTokens(question=question, suffix=tuple(row[shared:]), answers=tuple(answers)))
    return BatteryTokens(first_prompt=prompts[0], first_suffix=entries[0].suffix, questions=tuple(entries))


def packed_plan(questions: Sequence[QuestionTokens]) -> PackedPlan:
    """Lay all suffixes and the tries of their answers in one row."""
    ids: list[int] = []
    offsets: list[int] = []
    parents: list[int] = []  # the token before, -1 where that is the prefix
    wanted: list[tuple[int, int, int]] = []  # (token whose logits count, target id, answer number)
    owner = 0
    for entry in questions:
        last = -1
        for offset, token in enumerate(entry.suffix):
            parents.append(last)
            ids.append(token)
            offsets.append(offset)
            last = len(ids) - 1
        nodes: dict[tuple[int, ...], int] = {(): last}
        for answer in entry.answers:
            for depth, token in enumerate(answer):
                before = nodes[answer[:depth]]
                wanted.append((before, token, owner))
                path = answer[: depth + 1]
                # The last token of an answer is only ever a target; nothing is read behind it.
                if depth + 1 < len(answer) and path not in nodes:
                    parents.append(before)
                    ids.append(token)
                    offsets.append(len(entry.suffix) + depth)
                    nodes[path] = len(ids) - 1
            owner += 1
    rows = sorted({source for source, _, _ in wanted})
    place = {row: index for index, row in enumerate(rows)}
    return PackedPlan(
        ids=torch.tensor(ids),
        offsets=torch.tensor(offsets),
        mask=ancestor_mask(parents),
        rows=torch.tensor(rows),
        sources=torch.tensor([place[source] for source, _, _ in wanted]),
        targets=torch.tensor([target for _, target, _ in wanted]),
        owners=torch.tensor([number for _, _, number in wanted]),
        answers=tuple(len(entry.answers) for entry in questions),
    )


def ancestor_mask(parents: Sequence[int]) -> Tensor:
    """bool [S, S]: a token sees itself and its ancestors; parents come before their children."""
    mask = torch.zeros(len(parents), len(parents), dtype=torch.bool)
    for index, parent in enumerate(parents):
        if parent >= 0:
            mask[index] = mask[parent]
        mask[index, index] = True
    return mask


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """Length of the common beginning, but at least one token of each row is left over."""
    limit = min(len(row) for row in rows) - 1
    for index in range(limit):
        if any(row[index] != rows[0][index] for row in rows):
            return index
    return limit


def _tail(prompt: str, placeholder: str) -> str:
    """The text behind the last image."""
    return prompt[prompt.rfind(placeholder) + len(placeholder) :] if placeholder in prompt else prompt


def _answer_ids(vlm: Vlm, tail: str, row: Sequence[int], continuation: str) -> tuple[int, ...]:
    whole = vlm.token_ids(tail + continuation)
    if whole[: len(row)] == list(row) and len(whole) > len(row):
        return tuple(whole[len(row) :])
    return tuple(vlm.token_ids(continuation))  # its first token would merge with the prompt's last: keep them apart
