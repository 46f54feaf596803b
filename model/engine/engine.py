"""Asking: images encoded once, the common prefix read once, all closed questions scored over that one cache.

For NVILA all questions of a pair are packed in a few rows as a trie: each sees the prefix and itself, never another
question, and its positions start again where the prefix ends. That is the distribution that training shows (each
question asked on its own over the shared prefix) and the same numbers as asking one by one, for the price of about one
pass. Several pairs share a batch. Other architectures get one batch row for each answer over a repeated cache; the
first job of each number of images is checked against the plain way, and where that disagrees the engine says so and
goes the plain way from then on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum

import numpy as np
import torch
from torch import Tensor

from model.engine.answers import ClosedAnswer, EngineJob, JobAnswers, OpenAnswer
from model.engine.generation import decoding_threads, write_equal_rows, write_plainly, write_rows
from model.engine.plan import BatteryTokens, PackedPlan, QuestionTokens, battery_tokens, pack_plan
from model.engine.scoring import Prefix, plain_score, score_packed, score_rows
from model.engine.vlm import ALIGNED, NvilaVlm, Vlm
from model.errors import InferenceError
from model.nvila.last_layer import last_layer_at
from model.questions.battery import Question
from model.questions.prompts import PromptLayout

log = logging.getLogger(__name__)

CHECK_TOLERANCE = 1e-3
"""Greatest difference of total log-probability, relative to its size, that the check of the first pair accepts."""
HALF_TOLERANCE = 0.05
"""The same in half precision, where two orders of summation differ by so much."""


class Strategy(StrEnum):
    """The way in which closed questions are scored."""

    PACKED = "packed"
    """A few rows of many questions each behind the prefix, each question blind to the others (NVILA)."""
    ROWS = "rows"
    """One batch row for each answer over the repeated cache of the prefix."""
    PLAIN = "plain"
    """The whole prompt again for each answer: always right, slow."""


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
        self._checks = strategy is None and self._strategy is Strategy.ROWS
        self._checked: set[int] = set()  # numbers of images with which sharing was compared with the plain way
        self._batteries: dict[tuple[PromptLayout, tuple[Question, ...]], BatteryTokens] = {}
        self._plans: dict[tuple[QuestionTokens, ...], PackedPlan] = {}

    @property
    def strategy(self) -> Strategy:
        """The strategy in use."""
        return self._strategy

    @torch.inference_mode()
    def ask(self, jobs: Sequence[EngineJob]) -> list[JobAnswers]:
        """Answer every question of every job. Raises InferenceError where a question cannot be asked."""
        answers = [JobAnswers() for _ in jobs]
        for indices in self._groups(jobs):
            group = [jobs[index] for index in indices]
            try:
                # Groups are of jobs with the same questions and number of images: those share one trie and one mask.
                results = self._ask_group(group)
            except torch.OutOfMemoryError as error:
                raise InferenceError(f"out of memory with {len(group)} pairs at once") from error
            for index, result in zip(indices, results, strict=True):
                answers[index] = result
        return answers

    @torch.inference_mode()
    def ask_plainly(self, job: EngineJob) -> JobAnswers:
        """The reference: each answer of each question scored in a pass of its own, nothing shared."""
        tokens = self._battery(job)
        answers = JobAnswers()
        for entry in tokens.questions:
            if entry.answers:
                inputs = self.vlm.inputs(self.vlm.prompt(job.layout, entry.question.text), job.pictures)
                scores = tuple(plain_score(self.vlm, inputs, answer) for answer in entry.answers)
                answers.closed[entry.question.key] = ClosedAnswer(question=entry.question, log_probabilities=scores)
            else:
                answers.open[entry.question.key] = self._write_plainly(job, entry.question)
        return answers

    def _groups(self, jobs: Sequence[EngineJob]) -> Iterator[list[int]]:
        """Jobs with the same questions on as many images share a batch (NVILA); all others are asked one at a time.

        The texts beside the images (expert, context) may differ from pair to pair: they are in the prefix, which is
        read row by row, and the questions' own tokens are the same behind each.
        """
        same: dict[tuple[PromptLayout, tuple[Question, ...], tuple[Question, ...]], list[int]] = {}
        for index, job in enumerate(jobs):
            images_alone = replace(job.layout, expert=None, context=None)
            same.setdefault((images_alone, job.questions, job.late), []).append(index)
        size = self._pairs_at_once if self._strategy is Strategy.PACKED else 1
        for indices in same.values():
            for start in range(0, len(indices), size):
                yield indices[start : start + size]

    def _ask_group(self, jobs: Sequence[EngineJob]) -> list[JobAnswers]:
        if not jobs[0].questions:
            return [JobAnswers() for _ in jobs]
        if self._checks and len(jobs[0].pictures) not in self._checked:
            self._check(jobs[0])
        if self._strategy is Strategy.PLAIN:
            return [self.ask_plainly(job) for job in jobs]
        return self._ask_shared(jobs)

    def _ask_shared(self, jobs: Sequence[EngineJob]) -> list[JobAnswers]:
        answers = [JobAnswers() for _ in jobs]
        # The trie of the first job serves all: jobs of a group have the same questions.
        tokens, late = self._battery(jobs[0]), {question.key for question in jobs[0].late}
        closed = [entry for entry in tokens.questions if entry.answers and entry.question.key not in late]
        open_ = [entry for entry in tokens.questions if not entry.answers]
        started = time.perf_counter()
        prefix = self._read_prefix(jobs)
        seconds = {"prefill": time.perf_counter() - started}
        if closed:
            started = time.perf_counter()
            self._answer_closed(prefix, closed, answers)
            if late:
                self._follow_up(jobs, prefix, tokens, answers)
            seconds["score"] = time.perf_counter() - started
        if open_:
            started = time.perf_counter()
            for number, generated in enumerate(self._generate(jobs, prefix, open_)):
                answers[number].open = {answer.question.key: answer for answer in generated}
            seconds["generate"] = time.perf_counter() - started
        for result in answers:
            # The stages run for all jobs at once; each is told its share.
            result.seconds = {stage: value / len(jobs) for stage, value in seconds.items()}
        return answers

    def _battery(self, job: EngineJob) -> BatteryTokens:
        # The late questions as well: what all have in common is the prefix, and they are asked behind the same one.
        key = (job.layout, (*job.questions, *job.late))
        if key not in self._batteries:
            if len(self._batteries) > 64:  # texts with expert or context lines differ for every pair
                self._batteries.clear()
            self._batteries[key] = battery_tokens(self.vlm, *key)
        return self._batteries[key]

    # --- the prefix ---

    def _read_prefix(self, jobs: Sequence[EngineJob]) -> Prefix:
        """Encode the images and read the prefix of every job; rows of unequal length are padded on the right."""
        rows = [self._prefix_inputs(job, self._battery(job)) for job in jobs]
        lengths = [row["input_ids"].shape[1] for row in rows]
        width = max(lengths)
        inputs: dict[str, Tensor] = {}
        for name in rows[0]:
            parts = [row[name] for row in rows]
            if name in ALIGNED:
                parts = [torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]
            inputs[name] = torch.cat(parts)
        cache_alone = last_layer_at(self.vlm.model.llm, None) if isinstance(self.vlm, NvilaVlm) else nullcontext()
        with cache_alone:
            # No logits are needed, but 0 would mean all of them: the vocabulary over a whole prefix.
            outputs = self.vlm.model(**inputs, use_cache=True, logits_to_keep=1)
        if outputs.past_key_values is None:
            raise InferenceError("the model gives no cache")
        return Prefix(
            cache=outputs.past_key_values,
            lengths=torch.tensor(lengths, device=self.vlm.device),
            mask=inputs["attention_mask"].bool(),
        )

    def _prefix_inputs(self, job: EngineJob, tokens: BatteryTokens) -> dict[str, Tensor]:
        inputs = self.vlm.inputs(tokens.first_prompt, job.pictures)
        ids, count = inputs["input_ids"], len(tokens.first_suffix)
        if ids[0, -count:].tolist() != list(tokens.first_suffix):
            raise InferenceError("the prompt does not end with the question's own tokens; it cannot share a prefix")
        return {name: value[:, :-count] if name in ALIGNED else value for name, value in inputs.items()}

    # --- closed questions ---

    def _answer_closed(self, prefix: Prefix, closed: Sequence[QuestionTokens], answers: Sequence[JobAnswers]) -> None:
        """Add the answers to these questions of every job."""
        for result, scores in zip(answers, self._score(prefix, closed), strict=True):
            for entry, row in zip(closed, scores, strict=True):
                result.closed[entry.question.key] = ClosedAnswer(question=entry.question, log_probabilities=row)

    def _follow_up(
        self, jobs: Sequence[EngineJob], prefix: Prefix, tokens: BatteryTokens, answers: Sequence[JobAnswers]
    ) -> None:
        """Ask the late questions that any job wants, of all in one pass; each job gets the answers that it wants."""
        # In one pass, since the rows are computed for the batch anyway; a job keeps only the answers it asked for.
        late_keys = [set(job.follow_ups(result)) for job, result in zip(jobs, answers, strict=True)]
        asked = [entry for entry in tokens.questions if entry.question.key in set().union(*late_keys)]
        if not asked:
            return
        more = [JobAnswers() for _ in jobs]
        self._answer_closed(prefix, asked, more)
        for result, given, keys in zip(answers, more, late_keys, strict=True):
            result.closed |= {key: answer for key, answer in given.closed.items() if key in keys}

    def _score(self, prefix: Prefix, closed: Sequence[QuestionTokens]) -> list[list[tuple[float, ...]]]:
        """For each row of the prefix and each question the total log-probability of each allowed answer."""
        if self._strategy is Strategy.PACKED:
            key = tuple(closed)  # not the layout: expert and context lines lie before the questions' own tokens
            if len(self._plans) > 64:
                self._plans.clear()
            plan = self._plans.get(key) or self._plans.setdefault(key, pack_plan(closed))
            return score_packed(self.vlm, prefix, plan)  # type: ignore[arg-type]  # PACKED is NVILA's
        return [score_rows(self.vlm, prefix, closed)]

    def _check(self, job: EngineJob) -> None:
        """For an architecture that is not ours, once for each number of images (a longer prefix may outgrow a sliding
        window): does sharing the prefix give the plain numbers? Else say so."""
        self._checked.add(len(job.pictures))
        tokens = self._battery(job)
        closed = [entry for entry in tokens.questions if entry.answers][-1:]  # the first one's prompt makes the prefix
        if not closed:
            return
        inputs = self.vlm.inputs(self.vlm.prompt(job.layout, closed[0].question.text), job.pictures)
        plain = np.asarray([plain_score(self.vlm, inputs, answer) for answer in closed[0].answers])
        try:
            shared = np.asarray(self._score(self._read_prefix([job]), closed)[0][0])
        except torch.OutOfMemoryError:
            raise
        except (InferenceError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            self._go_plain(f"its cache cannot be shared ({type(error).__name__}: {error})")
            return
        tolerance = CHECK_TOLERANCE if self.vlm.model.dtype == torch.float32 else HALF_TOLERANCE
        if not np.allclose(shared, plain, rtol=tolerance, atol=tolerance):
            self._go_plain(f"scores over a shared cache differ from plain ones by {np.abs(shared - plain).max():.3g}")

    def _go_plain(self, reason: str) -> None:
        self._strategy, self._checks = Strategy.PLAIN, False
        note = f"{type(self.vlm.model).__name__}: {reason}; every question is asked by itself, which is slow"
        self.notes.append(note)
        log.warning(note)

    # --- open questions ---

    def _generate(
        self, jobs: Sequence[EngineJob], prefix: Prefix, questions: Sequence[QuestionTokens]
    ) -> list[list[OpenAnswer]]:
        """The open answers of each job, over the cache: one batch for NVILA, batches of equal length for the rest."""
        write = write_rows if isinstance(self.vlm, NvilaVlm) else write_equal_rows
        with decoding_threads(self.vlm):
            texts = write(self.vlm, prefix, [entry.suffix for entry in questions], self._max_new_tokens)
        count = len(questions)
        return [
            [
                OpenAnswer(question=entry.question, text=text, complete=complete)
                for entry, (text, complete) in zip(questions, texts[row * count : (row + 1) * count], strict=True)
            ]
            for row in range(len(jobs))
        ]

    def _write_plainly(self, job: EngineJob, question: Question) -> OpenAnswer:
        inputs = self.vlm.inputs(self.vlm.prompt(job.layout, question.text), job.pictures)
        with decoding_threads(self.vlm):
            text, complete = write_plainly(self.vlm, inputs, self._max_new_tokens)
        return OpenAnswer(question=question, text=text, complete=complete)
