"""The tokens that a set of questions needs: the shared prefix, and a trie of the questions' own tokens and answers.

No model runs here. A plan depends on the texts alone, so it is made once for a battery and used for every pair.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.engine.vlm import Vlm
from model.errors import InferenceError
from model.questions.battery import Question
from model.questions.prompts import PromptLayout

ROW_TOKENS = 256
"""About how many question tokens share a row of the packed pass."""


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
    """All closed questions in R rows of W tokens behind the prefix.

    ids, offsets [R, W]: tokens and their positions, counted from the end of the prefix; every question starts again at
    0, and questions of one row that begin alike share that beginning. mask [R, W, W]: which tokens of its row a token
    sees beside the prefix: its own question up to itself, and of that question's answers only its own. Padding sees
    itself. For each answer token: `rows` and `columns` the token whose logits count, `targets` its id, `owners` the
    number of its answer, counted over all questions; `answers`: how many each question has. places [R, N]: the columns
    of each row that are read, filled up with column 0; `readings`: the index among all R * N of each answer token's.
    """

    ids: Tensor
    offsets: Tensor
    mask: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    owners: Tensor
    places: Tensor
    readings: Tensor
    answers: tuple[int, ...]

    @property
    def token_count(self) -> int:
        """Tokens without padding."""
        return int((self.offsets >= 0).sum())


@dataclass(slots=True)
class _Trie:
    """The questions of one row with their answers. parents: node before each token, -1 for the prefix. readings:
    for each answer token the node whose logits count, its id, the question's number and the answer's within it."""

    ids: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    readings: list[tuple[int, int, int, int]] = field(default_factory=list)
    nodes: dict[tuple[int, int], int] = field(default_factory=dict)
    """(node, token behind it) → that token's node, an index into `ids`."""

    def add(self, number: int, entry: QuestionTokens) -> None:
        """Grow by one question; what it has in common with those before is there already."""
        last = -1
        for token in entry.suffix:
            last = self._behind(last, token)
        # An answer is scored by the logits of the token before each of its own: siblings share that node, so one
        # forward pass gives the first token of every allowed answer.
        for answer, tokens in enumerate(entry.answers):
            before = last
            for depth, token in enumerate(tokens):
                self.readings.append((before, token, number, answer))
                # The last token of an answer is only ever a target; nothing is read behind it.
                if depth + 1 < len(tokens):
                    before = self._behind(before, token)

    def missing(self, entry: QuestionTokens) -> int:
        """The number of tokens that a question would add, answers included."""
        paths = {entry.suffix[:length] for length in range(1, len(entry.suffix) + 1)}
        paths |= {entry.suffix + answer[:depth] for answer in entry.answers for depth in range(1, len(answer))}
        return sum(not self._knows(path) for path in paths)

    def _knows(self, path: Sequence[int]) -> bool:
        node: int | None = -1
        for token in path:
            node = None if node is None else self.nodes.get((node, token))
        return node is not None

    def _behind(self, parent: int, token: int) -> int:
        node = self.nodes.setdefault((parent, token), len(self.ids))
        if node == len(self.ids):
            self.ids.append(token)
            self.offsets.append(self.offsets[parent] + 1 if parent >= 0 else 0)
            self.parents.append(parent)
        return node


def battery_tokens(vlm: Vlm, layout: PromptLayout, questions: Sequence[Question]) -> BatteryTokens:
    """Tokenise every question after the last image and part them where they begin to differ."""
    prompts = [vlm.prompt(layout, question.text) for question in questions]
    tails = [_tail(prompt, vlm.placeholder) for prompt in prompts]
    rows = [vlm.token_ids(tail) for tail in tails]
    # Compared as tokens and not as text: a tokenizer may join the last shared letters with what follows.
    shared = common_length(rows)
    entries = []
    for question, tail, row in zip(questions, tails, rows, strict=True):
        answers = [
            _answer_ids(vlm, tail, row, vlm.continuation(layout, question.text, answer))
            for answer in question.allowed or ()
        ]
        _refuse_unsayable(vlm, question, row, answers)
        entries.append(QuestionTokens(question=question, suffix=tuple(row[shared:]), answers=tuple(answers)))
    return BatteryTokens(first_prompt=prompts[0], first_suffix=entries[0].suffix, questions=tuple(entries))


def _refuse_unsayable(vlm: Vlm, question: Question, row: Sequence[int], answers: Sequence[tuple[int, ...]]) -> None:
    """InferenceError where the tokenizer lacks a word, or an answer is (the beginning of) another one: the scores would
    be numbers like any others."""
    unknown = vlm.tokenizer.unk_token_id
    if unknown is not None and unknown not in vlm.stop_ids and any(unknown in ids for ids in (row, *answers)):
        raise InferenceError(f"{question.key}: the checkpoint's tokenizer lacks a word of the question or its answers")
    for number, answer in enumerate(answers):
        for second, other in enumerate(answers):
            # Scores are sums over an answer's tokens: a prefix of another answer can never be less likely than it.
            if second != number and other[: len(answer)] == answer:
                allowed = question.allowed or ()
                same = "are the same tokens" if answer == other else "begin alike and one has no end"
                raise InferenceError(f"{question.key}: the answers {allowed[number]!r} and {allowed[second]!r} {same}")


def pack_plan(questions: Sequence[QuestionTokens], width: int = ROW_TOKENS) -> PackedPlan:
    """Lay the trie of all questions and answers in rows of about `width` tokens.

    Few long rows waste attention on other questions; many short ones copy the prefix's cache more often and share less.
    """
    tries = _rows_of_tries(questions, width)
    longest = max(len(trie.ids) for trie in tries)
    ids = torch.zeros(len(tries), longest, dtype=torch.long)
    offsets = torch.full((len(tries), longest), -1)
    # Padding sees itself alone, for a softmax over nothing is NaN; no token of the row sees the padding.
    mask = torch.eye(longest, dtype=torch.bool).repeat(len(tries), 1, 1)
    starts = [sum(len(entry.answers) for entry in questions[:number]) for number in range(len(questions))]
    readings: list[tuple[int, int, int, int]] = []
    for row, trie in enumerate(tries):
        used = len(trie.ids)
        ids[row, :used] = torch.tensor(trie.ids)
        offsets[row, :used] = torch.tensor(trie.offsets)
        # Branches of the trie lie side by side in the row. The mask and the offsets (the depth in the trie, not the
        # place in the row) let each question see the prefix and itself, as if it were asked alone.
        mask[row, :used, :used] = ancestor_mask(trie.parents)
        readings += [(row, node, token, starts[number] + answer) for node, token, number, answer in trie.readings]
    columns = torch.tensor(readings).unbind(1)
    places, indices = _places_of(readings, len(tries))
    return PackedPlan(
        ids=ids,
        offsets=offsets,
        mask=mask,
        rows=columns[0],
        columns=columns[1],
        targets=columns[2],
        owners=columns[3],
        places=places,
        readings=indices,
        answers=tuple(len(entry.answers) for entry in questions),
    )


def _places_of(readings: Sequence[tuple[int, int, int, int]], count: int) -> tuple[Tensor, Tensor]:
    """The columns that are read in each of `count` rows [count, N], and the index of each reading among all of them."""
    columns = [sorted({column for row, column, *_ in readings if row == number}) for number in range(count)]
    longest = max(len(row) for row in columns)
    # Padded with column 0, which is read and never used.
    places = torch.tensor([[*row, *[0] * (longest - len(row))] for row in columns])
    indices = torch.tensor([row * longest + columns[row].index(column) for row, column, *_ in readings])
    return places, indices


def _rows_of_tries(questions: Sequence[QuestionTokens], width: int) -> list[_Trie]:
    """As many rows as `width` asks for, as short as they can be: neighbours in the alphabet of tokens share a row."""
    order = sorted(range(len(questions)), key=lambda number: questions[number].suffix)
    whole = _fill_rows(questions, order, sys.maxsize)[0]
    count = -(-len(whole.ids) // width)
    low, high = 1, sum(len(trie.ids) for trie in _fill_rows(questions, order, width))
    while low < high:  # the shortest rows of which `count` hold everything
        middle = (low + high) // 2
        low, high = (low, middle) if len(_fill_rows(questions, order, middle)) <= count else (middle + 1, high)
    return _fill_rows(questions, order, low)


def _fill_rows(questions: Sequence[QuestionTokens], order: Sequence[int], most: int) -> list[_Trie]:
    """Questions in that order in rows of at most `most` tokens; one that is longer by itself gets a row of its own."""
    rows: list[_Trie] = []
    for number in order:
        entry = questions[number]
        if not rows or len(rows[-1].ids) + rows[-1].missing(entry) > most:
            rows.append(_Trie())
        rows[-1].add(number, entry)
    return rows


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
