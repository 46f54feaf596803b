"""Asking a model on a server: every question of many pairs, scored from log-probabilities and never sampled.

- `Scoring.PROMPT` (vLLM): the conversation with the answer already given is sent with `prompt_logprobs`, one request
  for each allowed answer; the log-probabilities of the answer's tokens and its end token are added up. These are the
  local engine's numbers. vLLM skips its prefix cache for such requests, so they are slow.
- `Scoring.TOKEN_IDS` (vLLM): each allowed answer is tokenised once; one request for each question asks for the exact
  log-probabilities of the answers' own tokens (`logprob_token_ids`), with the prefix cache.
- `Scoring.TOP` (vLLM, SGLang and most others): one request for each question asks for a single token with its
  `top_logprobs`; tokens that begin an allowed answer count for it, upper and lower case as one. An answer beyond the
  listed tokens counts as much as the last listed one at most. Where none is listed all are equal.

With the last two, where several answers begin with the same token the walk goes on behind it
(`continue_final_message`). What a token that only one answer can begin with leads to is not asked any further, so these
are probabilities of the choice, not of every letter.
"""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.engine.answers import ClosedAnswer, EngineJob, JobAnswers, OpenAnswer
from model.questions.battery import Question
from model.questions.prompts import PromptLayout, Turn, clean_text, messages
from model.remote.client import ServerClient
from model.remote.logprobs import (
    ENDS,
    TINY,
    Walk,
    answer_log_probability,
    choice_of,
    scores_with_floor,
    top_tokens,
    written_text,
)
from model.remote.tokens import AnswerTokens

TOP_LOGPROBS = 20
"""The most that OpenAI's protocol, vLLM and SGLang all give."""
MAX_DEPTH = 8
"""Tokens of common beginning that are walked through before answers are told apart by what is known."""
MIN_MASS = 0.05
"""Share of the probability that the allowed answers must hold together. A model that gives "yes" and "no" 0.7 % has not
understood the question, and the larger of two such numbers is no answer."""


class Scoring(StrEnum):
    """The scoring of closed questions on a server."""

    TOP = "top_logprobs"
    """By the most probable next tokens: one request for each question."""
    PROMPT = "prompt_logprobs"
    """By the log-probabilities of a given answer (vLLM): one request for each allowed answer."""
    TOKEN_IDS = "token_ids"
    """By the exact log-probabilities of the answers' own tokens (vLLM): one request for each question."""


class RemoteEngine:
    """Asks a server. The interface of `model.engine.engine.Engine`: `ask(jobs)`, one result for each job."""

    def __init__(
        self,
        client: ServerClient,
        model: str,
        *,
        scoring: Scoring = Scoring.TOP,
        max_new_tokens: int = 96,
        min_mass: float = MIN_MASS,
    ) -> None:
        """min_mass: a question whose allowed answers hold a smaller share of the probability is abstained from."""
        self.client = client
        self.model = model
        self.scoring = scoring
        self._max_new_tokens = max_new_tokens
        self._min_mass = min_mass
        self._tokens = AnswerTokens(client, model)

    def ask(self, jobs: Sequence[EngineJob]) -> list[JobAnswers]:
        """Answer every question of every job, the jobs side by side. Raises InferenceError.

        A server that batches is fast only with many requests in flight; the client limits their number.
        """
        if len(jobs) < 2:
            return [self._ask(job) for job in jobs]
        with ThreadPoolExecutor(max_workers=len(jobs)) as pool:
            return list(pool.map(self._ask, jobs))

    def _ask(self, job: EngineJob) -> JobAnswers:
        urls = [data_url(picture) for picture in job.pictures]
        closed = [question for question in job.questions if question.allowed is not None]
        open_ = [question for question in job.questions if question.allowed is None]
        answers = JobAnswers()
        started = time.perf_counter()
        score = self._score_prompts if self.scoring is Scoring.PROMPT else self._walk
        for question, scores in zip(closed, score(job.layout, urls, closed), strict=True):
            scores = scores_with_floor(scores, self._min_mass)
            answers.closed[question.key] = ClosedAnswer(question=question, log_probabilities=scores)
        answers.seconds["score"] = time.perf_counter() - started
        started = time.perf_counter()
        bodies = [self._body(job.layout, urls, question, max_tokens=self._max_new_tokens) for question in open_]
        for question, reply in zip(open_, self.client.chat_many(bodies), strict=True):
            complete = choice_of(reply).get("finish_reason") == "stop"
            answers.open[question.key] = OpenAnswer(question=question, text=written_text(reply), complete=complete)
        answers.seconds["generate"] = time.perf_counter() - started
        return answers

    # --- by the next tokens ---

    def _walk(
        self, layout: PromptLayout, urls: Sequence[str], questions: Sequence[Question]
    ) -> list[tuple[float, ...]]:
        """Walk all questions in step: each round asks for the next token of every beginning that is still open."""
        walks = [Walk(question.allowed or ()) for question in questions]
        for depth in range(MAX_DEPTH):
            waiting = [
                (walk, beginning, question)
                for walk, question in zip(walks, questions, strict=True)
                for beginning in walk.open_beginnings()
            ]
            if not waiting:
                break
            ids = [self._next_ids(question, beginning, depth) for _, beginning, question in waiting]
            bodies = [
                self._body(layout, urls, question, answer=beginning, max_tokens=1) | _request_fields(some)
                for (_, beginning, question), some in zip(waiting, ids, strict=True)
            ]
            replies = self.client.chat_many(bodies)
            for (walk, beginning, _), some, reply in zip(waiting, ids, replies, strict=True):
                tokens = top_tokens(reply) if some is None else self._tokens.name_tokens(reply, some)
                if some is not None and beginning:
                    # The server named the shares of the asked tokens only; what they leave counts as the answer's end.
                    tokens[ENDS] = math.log(max(1.0 - sum(map(math.exp, tokens.values())), TINY))
                walk.take(beginning, tokens)
        return [walk.scores() for walk in walks]

    def _next_ids(self, question: Question, beginning: str, depth: int) -> tuple[int, ...] | None:
        """The tokens that the answers may go on with behind `beginning`; None: whatever the server lists."""
        if self.scoring is not Scoring.TOKEN_IDS:
            return None
        return self._tokens.next_ids(question.allowed or (), beginning, depth)

    # --- by the tokens of a given answer ---

    def _score_prompts(
        self, layout: PromptLayout, urls: Sequence[str], questions: Sequence[Question]
    ) -> list[tuple[float, ...]]:
        asked = [(question, answer) for question in questions for answer in question.allowed or ()]
        bodies = []
        for question, answer in asked:
            body = self._body(layout, urls, question, max_tokens=1)
            body["messages"].append({"role": "assistant", "content": clean_text(answer)})
            # 0: of each prompt token only its own log-probability; the answer closes the prompt, and nothing is
            # generated behind it.
            bodies.append(body | {"prompt_logprobs": 0, "add_generation_prompt": False})
        replies = iter(zip(asked, self.client.chat_many(bodies), strict=True))
        result = []
        for question in questions:
            scores = []
            for _ in question.allowed or ():
                (_, answer), reply = next(replies)
                scores.append(answer_log_probability(reply, clean_text(answer)))
            result.append(tuple(scores))
        return result

    def _body(
        self,
        layout: PromptLayout,
        urls: Sequence[str],
        question: Question,
        *,
        max_tokens: int,
        answer: str = "",
    ) -> dict[str, Any]:
        conversation = with_images(messages(layout, [Turn(question=question.text)]), urls)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": conversation,
            "max_tokens": max_tokens,
            "temperature": 0.0,
        }
        if answer:
            conversation.append({"role": "assistant", "content": answer})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body


def _request_fields(ids: tuple[int, ...] | None) -> dict[str, Any]:
    """The fields of a request that ask for log-probabilities of these tokens, or of the most probable ones."""
    if ids is None:
        return {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    return {"logprobs": True, "logprob_token_ids": list(ids)}


def data_url(picture: NDArray[np.uint8]) -> str:
    """A grey picture [H, W] as a PNG in a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def with_images(conversation: list[dict[str, Any]], urls: Sequence[str]) -> list[dict[str, Any]]:
    """The image placeholders of a conversation replaced by the pictures, in order. ValueError where they do not fit."""
    left = list(urls)
    result = []
    for message in conversation:
        content = []
        for part in message["content"]:
            if part["type"] == "image":
                if not left:
                    raise ValueError("more image placeholders than images")
                part = {"type": "image_url", "image_url": {"url": left.pop(0)}}
            content.append(part)
        result.append({**message, "content": content})
    if left:
        raise ValueError("more images than image placeholders")
    return result
