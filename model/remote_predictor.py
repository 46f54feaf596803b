"""A model behind an OpenAI-compatible server: the same questions and the same structured answers as the local engine.

Images go as data URLs in the order of the prompt layout. Open questions are plain chat completions. A closed question
is scored by one of two ways, because the servers differ:

- `Scoring.PROMPT` (vLLM): the conversation with the answer already given is sent with `prompt_logprobs`, one request
  for each allowed answer; the log-probabilities of the answer's tokens and its end token are added up. These are the
  local engine's numbers.
- `Scoring.TOP` (vLLM, SGLang and most others): one request for each question asks for a single token with its
  `top_logprobs`; tokens that begin an allowed answer count for it, upper and lower case as one. Where several answers
  begin with the same token the walk goes on behind it (`continue_final_message`). What a token that only one answer can
  begin with leads to is not asked any further, so these are probabilities of the choice, not of every letter; an answer
  beyond the listed tokens counts as much as the last listed one at most. Where none is listed all are equal, and
  `model.finding_states` then states nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.checkpoints.manifest import CheckpointKind, Manifest
from model.engine.engine import ClosedAnswer, Engine, Job, JobAnswers, OpenAnswer
from model.engine.vlm import Vlm
from model.errors import InferenceError
from model.images.square import fit
from model.predict import FOREIGN_TYPES, Predictor
from model.questions.battery import Question, QuestionType, closed_question
from model.questions.prompts import PromptLayout, Turn, clean_text, messages
from model.remote.client import DEFAULT_CONNECTIONS, ServerClient
from model.remote.logprobs import Walk, answer_log_probability, choice_of, top_tokens, written_text
from model.schema import DisplayImage

TOP_LOGPROBS = 20
"""The most that OpenAI's protocol, vLLM and SGLang all give."""
SIGHT_QUESTIONS = 6
"""So many are asked when a server is opened; in half precision one alone may be answered alike by chance."""
MAX_DEPTH = 8
"""Tokens of common beginning that are walked through before answers are told apart by what is known."""


class Scoring(StrEnum):
    """How closed questions are scored on a server."""

    TOP = "top_logprobs"
    """By the most probable next tokens: one request for each question."""
    PROMPT = "prompt_logprobs"
    """By the log-probabilities of a given answer (vLLM): one request for each allowed answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePictures:
    """What a predictor needs of a model that it cannot touch: picture size and prompt layout."""

    image_size: int

    def picture(self, image: DisplayImage) -> NDArray[np.uint8]:
        """The square uint8 picture that is sent; the server's processor scales it as it likes."""
        return fit(image, self.image_size)

    def layout(self, *, priors: int, expert: str | None = None, context: str | None = None) -> PromptLayout:
        """The prompt layout; the difference feature exists in our own models only."""
        return PromptLayout(priors=priors, expert=expert, context=context)


class RemoteEngine:
    """Asks a server. The interface of `model.engine.engine.Engine`: `ask(jobs)`, one result for each job."""

    def __init__(
        self, client: ServerClient, model: str, *, scoring: Scoring = Scoring.TOP, max_new_tokens: int = 96
    ) -> None:
        self.client = client
        self.model = model
        self.scoring = scoring
        self._max_new_tokens = max_new_tokens

    def ask(self, jobs: Sequence[Job]) -> list[JobAnswers]:
        """Answer every question of every job. Raises InferenceError."""
        return [self._ask(job) for job in jobs]

    def _ask(self, job: Job) -> JobAnswers:
        urls = [data_url(picture) for picture in job.pictures]
        closed = [question for question in job.questions if question.allowed is not None]
        open_ = [question for question in job.questions if question.allowed is None]
        answers = JobAnswers()
        started = time.perf_counter()
        score = self._score_prompts if self.scoring is Scoring.PROMPT else self._score_tops
        for question, scores in zip(closed, score(job.layout, urls, closed), strict=True):
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

    def _score_tops(
        self, layout: PromptLayout, urls: Sequence[str], questions: Sequence[Question]
    ) -> list[tuple[float, ...]]:
        """Walk all questions in step: each round asks for the next token of every beginning that is still open."""
        walks = [Walk(question.allowed or ()) for question in questions]
        for _ in range(MAX_DEPTH):
            waiting = [
                (walk, beginning, question)
                for walk, question in zip(walks, questions, strict=True)
                for beginning in walk.open_beginnings()
            ]
            if not waiting:
                break
            bodies = [
                self._body(layout, urls, question, answer=beginning, max_tokens=1, logprobs=True, top=TOP_LOGPROBS)
                for _, beginning, question in waiting
            ]
            for (walk, beginning, _), reply in zip(waiting, self.client.chat_many(bodies), strict=True):
                walk.take(beginning, top_tokens(reply))
        return [walk.scores() for walk in walks]

    # --- by the tokens of a given answer ---

    def _score_prompts(
        self, layout: PromptLayout, urls: Sequence[str], questions: Sequence[Question]
    ) -> list[tuple[float, ...]]:
        asked = [(question, answer) for question in questions for answer in question.allowed or ()]
        bodies = []
        for question, answer in asked:
            body = self._body(layout, urls, question, max_tokens=1)
            body["messages"].append({"role": "assistant", "content": clean_text(answer)})
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
        logprobs: bool = False,
        top: int = 0,
    ) -> dict[str, Any]:
        conversation = with_images(messages(layout, [Turn(question=question.text)]), urls)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": conversation,
            "max_tokens": max_tokens,
            "temperature": 0.0,
        }
        if logprobs:
            body |= {"logprobs": True, "top_logprobs": top}
        if answer:
            conversation.append({"role": "assistant", "content": answer})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body


def open_remote_predictor(
    base_url: str,
    *,
    findings: Sequence[str],
    model: str | None = None,
    api_key: str | None = None,
    timeout_seconds: float = 300.0,
    connections: int = DEFAULT_CONNECTIONS,
    scoring: Scoring = Scoring.TOP,
    image_size: int = 448,
    manifest: Manifest | None = None,
) -> Predictor:
    """A predictor whose model lives on a server. Raises InferenceError where the server does not answer.

    findings: what it may be asked; nobody but its trainer knows what a served model has learned. model: its name on
    the server, the first one where not given. manifest: reading rules (calibration, thresholds, device UID) of the
    checkpoint that the server serves, where that has one; otherwise the identity is made of address and name. A few
    questions are asked at once, in two orders of two pictures, to see that the server looks at them.
    """
    if not findings and manifest is None:
        raise InferenceError(f"{base_url}: nobody says what the served model may be asked ([model] findings)")
    client = ServerClient(base_url, api_key=api_key, timeout_seconds=timeout_seconds, connections=connections)
    try:
        offered = client.models()
        name = model or (offered[0] if offered else "")
        if name not in offered:
            raise InferenceError(f"{base_url}: offers {offered}, not {name!r}")
    except InferenceError:
        client.close()
        raise
    rules = manifest or _manifest_of(base_url, name, findings)
    pictures, engine = RemotePictures(image_size=image_size), RemoteEngine(client, name, scoring=scoring)
    try:
        _check_sight(engine, pictures, rules.findings[:SIGHT_QUESTIONS])
    except InferenceError:
        client.close()
        raise
    # A predictor takes of both only `picture`, `layout` and `ask`, which a server can give without torch.
    return Predictor(cast(Vlm, pictures), rules, engine=cast(Engine, engine))


def _check_sight(engine: RemoteEngine, pictures: RemotePictures, findings: Sequence[str]) -> None:
    """Ask about two pictures in both orders: a server that drops images, or one of them, answers all the same, and from
    the words alone. Raises InferenceError where every answer is equal to the last digit.
    """
    ramp = np.tile(np.linspace(0, 255, pictures.image_size).astype(np.uint8), (pictures.image_size, 1))
    questions = tuple(closed_question(QuestionType.PRESENCE, finding) for finding in findings or ("pneumothorax",))
    orders = ((ramp, ramp[::-1, ::-1].T), (ramp[::-1, ::-1].T, ramp))
    jobs = [Job(pictures=order, layout=pictures.layout(priors=1), questions=questions) for order in orders]
    first, second = (
        [answers.closed[question.key].log_probabilities for question in questions] for answers in engine.ask(jobs)
    )
    if first == second:
        raise InferenceError(
            f"{engine.client.base_url}: {engine.model} answers the same whichever picture comes "
            "first: it does not see them"
        )


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


def _manifest_of(base_url: str, name: str, findings: Sequence[str]) -> Manifest:
    """Reading rules of a served model without a manifest: no calibration, an identity from address and name."""
    digest = hashlib.sha256(f"{base_url}\n{name}".encode()).digest()
    plain = "".join(character if character.isalnum() else "-" for character in name).strip("-")[:100]
    return Manifest(
        name=plain or "model",
        version=digest.hex()[:12],
        kind=CheckpointKind.AUTO,
        files={},
        findings=tuple(findings),
        question_types=FOREIGN_TYPES,
        device_uid=f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}",
        base=f"{name} on {base_url}",
    )
