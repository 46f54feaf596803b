"""A server's log-probabilities of allowed answers: reading its replies, and telling answers apart.

Whatever is missing, malformed or no number in a reply raises InferenceError: read as it stands, it would become a
probability like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model.errors import InferenceError
from model.questions.prompts import clean_text

UNLISTED_MARGIN = 1.0
"""Nats below the last listed token at which an unlisted one is put."""
LEAST_LEFT = 1e-6
"""Probability that listed tokens leave at least: their sum is rounded."""
MOST_LOG_PROBABILITY = 0.01
"""Of a token; a little more than 0 is rounding, much more is something else (a logit)."""
TINY = 1e-12
ENDS = ""
"""Stands for every token with which no allowed answer goes on."""


class Walk:
    """Telling allowed answers apart token by token. A beginning is the text that several answers share so far.

    Upper and lower case count as one: a served model that was never trained on our words says "Yes" where the question
    allows "yes", and left out, that would turn its answer over.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = tuple(clean_text(answer) for answer in allowed)
        self._scores: dict[str, float] = {}
        self._open: dict[str, float] = {"": 0.0} if len(self._allowed) > 1 else {}
        if len(self._allowed) == 1:
            self._scores[self._allowed[0]] = 0.0

    def open_beginnings(self) -> list[str]:
        """As the server spelled them."""
        return list(self._open)

    def take(self, beginning: str, tokens: Mapping[str, float]) -> None:
        """Spread the probability of a beginning over what may follow it.

        Tokens with which the answer goes on add up (several spellings of one beginning); of a beginning that is itself
        an answer, everything that begins no longer answer ends it.
        """
        so_far, start = self._open.pop(beginning), beginning.casefold()
        here = [answer for answer in self._beginning_with(start) if answer not in self._scores]
        spellings: dict[str, dict[str, float]] = {}
        ending = 0.0
        for token, log_probability in tokens.items():
            # The first token may carry the blank that parts the answer from the prompt.
            text = token.lstrip() if not beginning else token
            longer = start + text.casefold()
            if text and self._beginning_with(longer):
                spelled = spellings.setdefault(longer, {})
                spelled[beginning + text] = spelled.get(beginning + text, 0.0) + math.exp(log_probability)
            else:
                ending += math.exp(log_probability)
        answers: set[str] = set()
        for longer, spelled in spellings.items():
            followers = self._beginning_with(longer)
            answers.update(followers)
            value = so_far + math.log(max(sum(spelled.values()), TINY))
            # One answer alone goes on so: its further tokens need not be asked for.
            if len(followers) == 1:
                self._add(followers[0], value)
            else:
                # Several do: the next token is asked for behind the likeliest spelling of their common beginning.
                self._open[max(spelled, key=lambda text: spelled[text])] = value
        unlisted = so_far + _bound_unlisted(tokens)
        for answer in here:
            if answer.casefold() == start:
                self._add(answer, so_far + math.log(max(ending, TINY)))
            elif answer not in answers:
                self._add(answer, unlisted)

    def scores(self) -> tuple[float, ...]:
        """Log-probability of each answer in the order given; what was never told apart shares equally."""
        result = dict(self._scores)
        for beginning, so_far in self._open.items():
            rest = self._beginning_with(beginning.casefold())
            for answer in rest:
                result[answer] = float(np.logaddexp(result.get(answer, -math.inf), so_far - math.log(len(rest))))
        return tuple(result[answer] for answer in self._allowed)

    def _beginning_with(self, folded: str) -> list[str]:
        return [answer for answer in self._allowed if answer.casefold().startswith(folded)]

    def _add(self, answer: str, value: float) -> None:
        self._scores[answer] = float(np.logaddexp(self._scores.get(answer, -math.inf), value))


def _bound_unlisted(tokens: Mapping[str, float]) -> float:
    """The log-probability that an unlisted token is given: below the last listed one, and no more than is left over."""
    left = 1.0 - sum(math.exp(value) for value in tokens.values())
    return min(min(tokens.values(), default=0.0) - UNLISTED_MARGIN, math.log(max(left, LEAST_LEFT)))


def scores_with_floor(scores: tuple[float, ...], min_mass: float) -> tuple[float, ...]:
    """Return the scores, or equal ones of the same sum where the answers hold less than `min_mass` together.

    Equal possibilities say nothing (`model.finding_states`, rule 6): the finding is then abstained from.
    """
    mass = sum(math.exp(score) for score in scores)
    if len(scores) < 2 or mass >= min_mass or not math.isfinite(mass):
        return scores
    return (math.log(max(mass, TINY) / len(scores)),) * len(scores)


def answer_log_probability(reply: Mapping[str, Any], answer: str) -> float:
    """Sum over the tokens of the answer that ends the prompt, and the token that ends it, from vLLM's prompt_logprobs.

    Each entry of the list maps token ids to {"logprob", "decoded_token"}; with prompt_logprobs = 0 it holds the one
    that stands there. Raises InferenceError where the answer is not found at the end of the prompt.
    """
    try:
        entries = [next(iter(entry.values())) for entry in reply["prompt_logprobs"] if entry]
        texts = [str(entry["decoded_token"]) for entry in entries]
        scores = [float(entry["logprob"]) for entry in entries]
    except (KeyError, TypeError, ValueError, StopIteration, AttributeError) as error:
        raise InferenceError("the server gave no prompt_logprobs; use scoring = top_logprobs") from error
    joined, last = "", len(texts)
    for start in range(len(texts) - 1, -1, -1):
        joined = texts[start] + joined
        if joined.lstrip().startswith(answer):
            covered, end = "", start
            while len(covered.lstrip()) < len(answer):
                covered += texts[end]
                end += 1
            if covered.strip() != answer:  # "no" is not the answer in "is there a nodule?"
                continue
            total = sum(scores[start : min(end + 1, last)])
            if not math.isfinite(total):
                raise InferenceError("the server's log-probabilities are no numbers")
            return total
    raise InferenceError(f"the server's prompt does not end with the answer {answer!r}")


def top_tokens(reply: Mapping[str, Any]) -> dict[str, float]:
    """Text → log-probability of the first generated token's alternatives; the same text by two tokens adds up."""
    try:
        listed = choice_of(reply)["logprobs"]["content"][0]["top_logprobs"]
        items = [(str(item["token"]), float(item["logprob"])) for item in listed]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InferenceError("the server gave no top_logprobs; closed questions cannot be scored on it") from error
    if not items:  # without a single one every answer would be equally likely
        raise InferenceError("the server gave no top_logprobs; closed questions cannot be scored on it")
    if not all(math.isfinite(value) and value <= MOST_LOG_PROBABILITY for _, value in items):
        raise InferenceError("the server's log-probabilities are no log-probabilities")
    tokens: dict[str, float] = {}
    for text, value in items:
        tokens[text] = float(np.logaddexp(tokens.get(text, -math.inf), value))
    return tokens


def choice_of(reply: Mapping[str, Any]) -> dict[str, Any]:
    try:
        choice = reply["choices"][0]
    except (KeyError, IndexError, TypeError) as error:
        raise InferenceError("the server's answer holds no choice") from error
    if not isinstance(choice, dict):
        raise InferenceError("the server's answer holds no choice")
    return choice


def written_text(reply: Mapping[str, Any]) -> str:
    """The text of the answer; "" where the server sent none."""
    message = choice_of(reply).get("message")
    content = message.get("content") if isinstance(message, dict) else message
    if content is not None and not isinstance(content, str):
        raise InferenceError("the server's answer is no text")
    return (content or "").strip()
