"""The tokens of allowed answers, as the server's own tokenizer makes them, each asked for once."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from model.errors import InferenceError
from model.questions.prompts import clean_text
from model.remote.client import ServerClient
from model.remote.logprobs import MOST_LOG_PROBABILITY, choice_of


class AnswerTokens:
    """Tokenised answers of one served model. Thread-safe.

    Each answer counts in two spellings, as it stands and with a capital: a model that was never trained on these words
    says "Yes" where the question allows "yes".
    """

    def __init__(self, client: ServerClient, model: str) -> None:
        self._client = client
        self._model = model
        self._ids: dict[str, tuple[int, ...]] = {}
        self._texts: dict[int, str] = {}
        self._guard = threading.Lock()

    def next_ids(self, allowed: Sequence[str], beginning: str, depth: int) -> tuple[int, ...]:
        """Return the tokens that follow `beginning`, which `depth` tokens made, in answers that begin with it."""
        ids_after: dict[int, None] = {}
        for spelling in _spellings(allowed):
            ids = self._of(spelling)
            if spelling.casefold().startswith(beginning.casefold()) and len(ids) > depth:
                ids_after[ids[depth]] = None
        return tuple(ids_after)

    def name_tokens(self, reply: Mapping[str, Any], ids: Sequence[int]) -> dict[str, float]:
        """Return text → log-probability of exactly the tokens `ids`, from a reply to `logprob_token_ids`.

        vLLM lists them as `top_logprobs` of the first token. Raises InferenceError where one is missing or no number.
        """
        try:
            listed = choice_of(reply)["logprobs"]["content"][0]["top_logprobs"]
            values = {str(item["token"]): float(item["logprob"]) for item in listed}
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise InferenceError("the server gave no logprob_token_ids; use scoring = top_logprobs") from error
        tokens: dict[str, float] = {}
        for number in ids:
            text = self._texts[number]
            # vLLM names a token by its text, or "token_id:N" where return_tokens_as_token_ids is set.
            value = values.get(text, values.get(f"token_id:{number}"))
            if value is None:
                raise InferenceError(f"the server left out token {number} ({text!r}); use scoring = top_logprobs")
            # A little above 0 is rounding; more is no logarithm of a probability.
            if math.isnan(value) or value > MOST_LOG_PROBABILITY:
                raise InferenceError("the server's log-probabilities are no log-probabilities")
            tokens[text] = value
        return tokens

    def _of(self, text: str) -> tuple[int, ...]:
        with self._guard:
            if text not in self._ids:
                reply = self._client.tokenize(self._model, text)
                try:
                    ids = tuple(int(number) for number in reply["tokens"])
                    texts = [self._client.detokenize(self._model, number) for number in ids]
                except (KeyError, TypeError, ValueError) as error:
                    raise InferenceError("the server does not tokenise; use scoring = top_logprobs") from error
                self._ids[text] = ids
                self._texts.update(zip(ids, texts, strict=True))
            return self._ids[text]


def _spellings(allowed: Sequence[str]) -> list[str]:
    plain = [clean_text(answer) for answer in allowed]
    return [*plain, *(answer[:1].upper() + answer[1:] for answer in plain)]
