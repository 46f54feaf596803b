"""Asking: images encoded once, the common prefix read once, all closed questions scored over that one cache.

For NVILA all questions of a pair are packed in a few rows: each sees the prefix and itself, never another question, and
its positions start again where the prefix ends. That is the distribution that training shows (each question asked on
its own over the shared prefix) and the same numbers as asking one by one, for the price of about one pass. Several
pairs share a batch. Other architectures get one batch row for each answer over a repeated cache; the first pair is
checked against the plain way, and where that disagrees the engine says so and goes the plain way from then on.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from model.engine_plan import BatteryTokens, PackedPlan, QuestionTokens, battery_tokens, packed_plan
from model.errors import InferenceError
from model.prompts import PromptLayout
from model.questions import Question
from model.vlm import ALIGNED, NvilaVlm, Vlm

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 32
"""Batch rows of one forward over a repeated cache; bounds memory for long prefixes."""
CHECK_TOLERANCE = 1e-3
"""Greatest difference of total log-probability, relative to its size, that the check of the first pair accepts."""


class Strategy(StrEnum):
    """How closed questions are scored."""

    PACKED = "packed"
    """A few rows of many questions each behind the prefix, each question blind to the others (NVILA)."""
    ROWS = "rows"
    """One batch row for each answer over the repeated cache of the prefix."""
    PLAIN = "plain"
    """The whole prompt again for each answer: always right, slow."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """The questions on one set of pictures. pictures: uint8 [H, W] in the order of the layout's image slots."""

    pictures: tuple[NDArray[np.uint8], ...]
    layout: PromptLayout
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedAnswer:
    """log_probabilities: total log-probability of each allowed answer with its end token, in the order of `allowed`."""

    question: Question
    log_probabilities: tuple[float, ...]

    def probabilities(self, temperature: float = 1.0) -> dict[str, float]:
        """The allowed answers' probabilities, normalised over them: softmax(log p / temperature)."""
        scores = np.asarray(self.log_probabilities, dtype=np.float64) / temperature
        weights = np.exp(scores - scores.max())
        return dict(zip(self.question.allowed or (), (weights / weights.sum()).tolist(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAnswer:
    """A generated answer. complete: it ended by itself, not at the limit."""

    question: Question
    text: str
    complete: bool


@dataclass(slots=True, kw_only=True)
class JobAnswers:
    """What one job got, by question key; seconds by stage ("prefill" includes the images, "score", "generate")."""

    closed: dict[str, ClosedAnswer] = field(default_factory=dict)
    open: dict[str, OpenAnswer] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class _Prefix:
    """A read prefix: the cache, the real length of each row [B], and which cached tokens are real [B, P]."""

    cache: object
    lengths: Tensor
    mask: Tensor


class Engine:
    """Asks one model. Not for several threads at once.

    strategy: forced where given; otherwise PACKED for NVILA and ROWS, after a check, for the rest. `notes` keeps what
    was said loudly. pairs_at_once: jobs that share one batch.
    """

    def __init__(
        self, vlm: Vlm, *, strategy: Strategy | None = None, max_new_tokens: int = 96, pairs_at_once: int = 8
    ) -> None:
        self.vlm = vlm
        self.notes: list[str] = []
        self._max_new_tokens = max_new_tokens
        self._pairs_at_once = pairs_at_once
        self._strategy = strategy or (Strategy.PACKED if isinstance(vlm, NvilaVlm) else Strategy.ROWS)
        self._unchecked = strategy is None and self._strategy is Strategy.ROWS
        self._batteries: dict[tuple[PromptLayout, tuple[Question, ...]], BatteryTokens] = {}
        self._plans: dict[tuple[PromptLayout, tuple[Question, ...]], PackedPlan] = {}

    @property
    def strategy(self) -> Strategy:
        """What is used now."""
        return self._strategy

    @torch.inference_mode()
    def ask(self, jobs: Sequence[Job]) -> list[JobAnswers]:
        """Answer every question of every job. Raises InferenceError where a question cannot be asked."""
        answers = [JobAnswers() for _ in jobs]
        for indices in self._groups(jobs):
            group = [jobs[index] for index in indices]
            try:
                results = self._ask_group(group)
            except torch.OutOfMemoryError as error:
                raise InferenceError(f"out of memory with {len(group)} pairs at once") from error
            for index, result in zip(indices, results, strict=True):
                answers[index] = result
        return answers

    @torch.inference_mode()
    def ask_plainly(self, job: Job) -> JobAnswers:
        """The reference: each answer of each question scored in a pass of its own, nothing shared."""
        tokens = self._battery(job)
        answers = JobAnswers()
        for entry in tokens.questions:
            inputs = self.vlm.inputs(self.vlm.prompt(job.layout, entry.question.text), job.pictures)
            if entry.answers:
                scores = tuple(self._plain_score(inputs, answer) for answer in entry.answers)
                answers.closed[entry.question.key] = ClosedAnswer(question=entry.question, log_probabilities=scores)
            else:
                answers.open[entry.question.key] = self._generate_plainly(entry.question, inputs)
        return answers

    def _groups(self, jobs: Sequence[Job]) -> Iterator[list[int]]:
        """Jobs with the same text share a batch (NVILA); all others are asked one at a time."""
        same: dict[tuple[PromptLayout, tuple[Question, ...]], list[int]] = {}
        for index, job in enumerate(jobs):
            same.setdefault((job.layout, job.questions), []).append(index)
        size = self._pairs_at_once if self._strategy is Strategy.PACKED else 1
        for indices in same.values():
            for start in range(0, len(indices), size):
                yield indices[start : start + size]

    def _ask_group(self, jobs: Sequence[Job]) -> list[JobAnswers]:
        if not jobs[0].questions:
            return [JobAnswers() for _ in jobs]
        if self._strategy is Strategy.PLAIN:
            return [self.ask_plainly(job) for job in jobs]
        answers = [JobAnswers() for _ in jobs]
        tokens = self._battery(jobs[0])
        closed = [entry for entry in tokens.questions if entry.answers]
        open_ = [entry for entry in tokens.questions if not entry.answers]
        started = time.perf_counter()
        prefix = self._read_prefix(jobs, tokens)
        seconds = {"prefill": time.perf_counter() - started}
        if closed:
            started = time.perf_counter()
            scores = self._score(jobs[0], prefix, closed)
            for index, result in enumerate(answers):
                for entry, row in zip(closed, scores[index], strict=True):
                    result.closed[entry.question.key] = ClosedAnswer(question=entry.question, log_probabilities=row)
            seconds["score"] = time.perf_counter() - started
            if self._unchecked and not self._agrees(jobs[0], answers[0], closed):
                return [self.ask_plainly(job) for job in jobs]
        if open_:
            started = time.perf_counter()
            for number, generated in enumerate(self._generate(jobs, prefix, open_)):
                answers[number].open = {answer.question.key: answer for answer in generated}
            seconds["generate"] = time.perf_counter() - started
        for result in answers:
            result.seconds = {stage: value / len(jobs) for stage, value in seconds.items()}
        return answers

    def _battery(self, job: Job) -> BatteryTokens:
        key = (job.layout, job.questions)
        if key not in self._batteries:
            if len(self._batteries) > 64:  # texts with expert or context lines differ for every pair
                self._batteries.clear()
                self._plans.clear()
            self._batteries[key] = battery_tokens(self.vlm, job.layout, job.questions)
        return self._batteries[key]

    # --- the prefix ---

    def _read_prefix(self, jobs: Sequence[Job], tokens: BatteryTokens) -> _Prefix:
        """Encode the images and read the prefix of every job; rows of unequal length are padded on the right."""
        rows = [self._prefix_inputs(job, tokens) for job in jobs]
        lengths = [row["input_ids"].shape[1] for row in rows]
        width = max(lengths)
        inputs: dict[str, Tensor] = {}
        for name in rows[0]:
            parts = [row[name] for row in rows]
            if name in ALIGNED:
                parts = [torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]
            inputs[name] = torch.cat(parts)
        outputs = self.vlm.model(**inputs, use_cache=True, logits_to_keep=1)
        if outputs.past_key_values is None:
            raise InferenceError("the model gives no cache")
        return _Prefix(
            cache=outputs.past_key_values,
            lengths=torch.tensor(lengths, device=self.vlm.device),
            mask=inputs["attention_mask"].bool(),
        )

    def _prefix_inputs(self, job: Job, tokens: BatteryTokens) -> dict[str, Tensor]:
        inputs = self.vlm.inputs(tokens.first_prompt, job.pictures)
        ids, count = inputs["input_ids"], len(tokens.first_suffix)
        if ids[0, -count:].tolist() != list(tokens.first_suffix):
            raise InferenceError("the prompt does not end with the question's own tokens; it cannot share a prefix")
        return {name: value[:, :-count] if name in ALIGNED else value for name, value in inputs.items()}

    # --- closed questions ---

    def _score(self, job: Job, prefix: _Prefix, closed: Sequence[QuestionTokens]) -> list[list[tuple[float, ...]]]:
        """For each row of the prefix and each question the total log-probability of each allowed answer."""
        if self._strategy is Strategy.PACKED:
            key = (job.layout, job.questions)
            plan = self._plans.get(key) or self._plans.setdefault(key, packed_plan(closed))
            return self._score_packed(prefix, plan)
        return [self._score_rows(prefix, closed)]

    def _score_packed(self, prefix: _Prefix, plan: PackedPlan) -> list[list[tuple[float, ...]]]:
        """One pass of the language model over pairs x rows; the vocabulary only where an answer token is predicted."""
        device, llm = self.vlm.device, self.vlm.model.llm
        pairs, (count, width) = prefix.lengths.shape[0], plan.ids.shape
        own = plan.mask.to(device).repeat(pairs, 1, 1)[:, None]
        shared = prefix.mask.repeat_interleave(count, dim=0)[:, None, None, :].expand(-1, 1, width, -1)
        offsets = plan.offsets.to(device).clamp(min=0).repeat(pairs, 1)
        hidden = llm.model(
            input_ids=plan.ids.to(device).repeat(pairs, 1),
            attention_mask=self._mask(torch.cat([shared, own], dim=-1)),
            position_ids=prefix.lengths.repeat_interleave(count)[:, None] + offsets,
            past_key_values=repeated(prefix.cache, count),
            use_cache=True,
        ).last_hidden_state.view(pairs, count, width, -1)
        # Several answer tokens are predicted from the same place: project each place once.
        places, back = torch.unique(plan.rows * width + plan.columns, return_inverse=True)
        needed = hidden.flatten(1, 2)[:, places.to(device)]
        logs = llm.lm_head(needed).float().log_softmax(-1)
        taken = logs[:, back.to(device), plan.targets.to(device)]  # [pairs, answer tokens]
        totals = torch.zeros(pairs, sum(plan.answers), device=device).index_add_(1, plan.owners.to(device), taken)
        return [[tuple(part.tolist()) for part in row.split(plan.answers)] for row in totals.cpu()]

    def _mask(self, seen: Tensor) -> Tensor:
        """A bool mask [B, 1, Q, K] in the form that the attention implementation takes."""
        if self.vlm.model.config._attn_implementation == "sdpa":
            return seen
        floor = torch.finfo(self.vlm.model.dtype).min
        return torch.zeros_like(seen, dtype=self.vlm.model.dtype).masked_fill(~seen, floor)

    def _score_rows(self, prefix: _Prefix, closed: Sequence[QuestionTokens]) -> list[tuple[float, ...]]:
        rows = [(entry.suffix, answer) for entry in closed for answer in entry.answers]
        totals: list[float] = []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            totals += self._score_chunk(prefix, rows[start : start + ROWS_AT_ONCE])
        split, used = [], 0
        for entry in closed:
            split.append(tuple(totals[used : used + len(entry.answers)]))
            used += len(entry.answers)
        return split

    def _score_chunk(self, prefix: _Prefix, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[float]:
        """Score rows (suffix, answer), padded on the right, over a copy of the cache for each."""
        device = self.vlm.device
        fed = [suffix + answer[:-1] for suffix, answer in rows]
        width = max(len(row) for row in fed)
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in fed], device=device)
        real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in fed], device=device)
        cache = repeated(prefix.cache, len(rows))
        mask = torch.cat([prefix.mask.long().expand(len(rows), -1), real], dim=1)
        outputs = self.vlm.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **self._rotary_positions(prefix, len(rows), width),
        )
        totals = []
        for index, (suffix, answer) in enumerate(rows):
            logs = outputs.logits[index, len(suffix) - 1 : len(suffix) - 1 + len(answer)].float().log_softmax(-1)
            totals.append(float(logs.gather(1, torch.tensor(answer, device=device)[:, None]).sum()))
        return totals

    def _rotary_positions(self, prefix: _Prefix, rows: int, width: int) -> dict[str, Tensor]:
        """Positions behind a cached prefix for the Qwen-VL family: three equal parts, moved by what images saved.

        The family's own computation covers the whole mask, not only the new tokens, so it fails behind a cache.
        """
        deltas = getattr(getattr(self.vlm.model, "model", None), "rope_deltas", None)
        if deltas is None:
            return {}
        behind = prefix.lengths[:1] + torch.arange(width, device=self.vlm.device)
        return {"position_ids": (behind + deltas[0].to(behind)).expand(3, rows, width)}

    def _plain_score(self, inputs: Mapping[str, Tensor], answer: tuple[int, ...]) -> float:
        extended = self._extended(inputs, answer[:-1])
        logits = self.vlm.model(**extended).logits[0, -len(answer) :].float().log_softmax(-1)
        return float(logits.gather(1, torch.tensor(answer, device=logits.device)[:, None]).sum())

    def _extended(self, inputs: Mapping[str, Tensor], ids: Sequence[int]) -> dict[str, Tensor]:
        """The same inputs with more text tokens at the end."""
        fill = {"input_ids": torch.tensor([list(ids)], dtype=torch.long), "attention_mask": torch.ones(1, len(ids))}
        result = dict(inputs)
        for name in ALIGNED:
            if name in inputs:
                more = fill.get(name, torch.zeros(1, len(ids)))
                result[name] = torch.cat([inputs[name], more.to(inputs[name])], dim=1)
        return result

    def _agrees(self, job: Job, answers: JobAnswers, closed: Sequence[QuestionTokens]) -> bool:
        """Compare the first question with the plain way, once."""
        self._unchecked = False
        entry = closed[-1]  # not the first one: its prompt made the prefix
        inputs = self.vlm.inputs(self.vlm.prompt(job.layout, entry.question.text), job.pictures)
        shared = np.asarray(answers.closed[entry.question.key].log_probabilities)
        plain = np.asarray([self._plain_score(inputs, answer) for answer in entry.answers])
        loosened = CHECK_TOLERANCE if self.vlm.model.dtype == torch.float32 else 0.05
        if np.allclose(shared, plain, rtol=loosened, atol=loosened):
            return True
        self._strategy = Strategy.PLAIN
        note = (
            f"{type(self.vlm.model).__name__}: scores over a shared cache differ from plain ones by "
            f"{np.abs(shared - plain).max():.3g}; every question is asked by itself from now on, which is slow"
        )
        self.notes.append(note)
        log.warning(note)
        return False

    # --- open questions ---

    def _generate(
        self, jobs: Sequence[Job], prefix: _Prefix, questions: Sequence[QuestionTokens]
    ) -> list[list[OpenAnswer]]:
        if not isinstance(self.vlm, NvilaVlm):
            return [
                [
                    self._generate_plainly(
                        entry.question,
                        self.vlm.inputs(self.vlm.prompt(job.layout, entry.question.text), job.pictures),
                    )
                    for entry in questions
                ]
                for job in jobs
            ]
        texts = self._generate_rows(prefix, [entry.suffix for entry in questions])
        count = len(questions)
        return [
            [
                OpenAnswer(question=entry.question, text=text, complete=complete)
                for entry, (text, complete) in zip(questions, texts[row * count : (row + 1) * count], strict=True)
            ]
            for row in range(len(jobs))
        ]

    def _generate_rows(self, prefix: _Prefix, suffixes: Sequence[tuple[int, ...]]) -> list[tuple[str, bool]]:
        """Greedy answers of all questions of all rows in one batch; finished rows idle until the last one ends."""
        device, count = self.vlm.device, len(suffixes)
        cache = repeated(prefix.cache, count)
        pairs = prefix.lengths.shape[0]
        width = max(len(suffix) for suffix in suffixes)
        ids = torch.tensor([[0] * (width - len(s)) + list(s) for s in suffixes] * pairs, device=device)
        real = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in suffixes] * pairs, device=device)
        mask = torch.cat([prefix.mask.long().repeat_interleave(count, dim=0), real], dim=1)
        positions = prefix.lengths.repeat_interleave(count)[:, None] + (real.cumsum(1) - 1).clamp(min=0)
        stops = torch.tensor(self.vlm.stop_ids, device=device)
        done = torch.zeros(len(ids), dtype=torch.bool, device=device)
        written: list[Tensor] = []
        for _ in range(self._max_new_tokens):
            outputs = self.vlm.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            token = outputs.logits[:, -1].argmax(-1)
            written.append(token.masked_fill(done, int(stops[0])))
            done |= torch.isin(token, stops)
            if bool(done.all()):
                break
            ids, positions = token[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        tokens = torch.stack(written, dim=1).tolist()
        return [(self._text(row), bool(end)) for row, end in zip(tokens, done.tolist(), strict=True)]

    def _generate_plainly(self, question: Question, inputs: Mapping[str, Tensor]) -> OpenAnswer:
        output = self.vlm.model.generate(
            **inputs, max_new_tokens=self._max_new_tokens, do_sample=False, repetition_penalty=1.0
        )
        row = output[0, inputs["input_ids"].shape[1] :].tolist()
        return OpenAnswer(question=question, text=self._text(row), complete=bool(set(row) & set(self.vlm.stop_ids)))

    def _text(self, row: Sequence[int]) -> str:
        stops = set(self.vlm.stop_ids)
        end = next((place for place, token in enumerate(row) if token in stops), len(row))
        text: str = self.vlm.tokenizer.decode(row[:end], skip_special_tokens=True)
        return text.strip()


def repeated(cache: Any, times: int) -> Any:
    """A cache of its own in which each row stands `times` times; the original may be continued again."""
    twin = copy.copy(cache)
    # These two append by making new tensors, so the prefix's are shared; any other kind may write in place.
    shared = (DynamicLayer, DynamicSlidingWindowLayer)
    twin.layers = [copy.copy(layer) if type(layer) in shared else copy.deepcopy(layer) for layer in cache.layers]
    if times > 1:
        twin.batch_repeat_interleave(times)
    return twin
