"""A language model that answers prompts: the interface, and any OpenAI-compatible server behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from model.errors import InferenceError
from model.remote.client import ServerClient


class TextModel(Protocol):
    """A language model that answers prompts at temperature 0."""

    @property
    def name(self) -> str:
        """Which model, as it is recorded."""
        ...

    def complete(self, prompts: Sequence[str], *, max_tokens: int) -> list[str]:
        """One answer for each prompt. Raises InferenceError."""
        ...


class ServerText:
    """A text model behind any OpenAI-compatible server."""

    def __init__(self, client: ServerClient, model: str) -> None:
        self._client = client
        self._model = model

    @property
    def name(self) -> str:
        """Model and server."""
        return f"{self._model} at {self._client.base_url}"

    def complete(self, prompts: Sequence[str], *, max_tokens: int) -> list[str]:
        """Chat completions at temperature 0."""
        bodies = [
            {
                "model": self._model,
                "messages": [{"role": "user", "content": prompt}],
                "temperature": 0,
                "max_tokens": max_tokens,
            }
            for prompt in prompts
        ]
        return [_content(answer) for answer in self._client.chat_many(bodies)]


def _content(answer: dict[str, Any]) -> str:
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise InferenceError("the server's answer holds no message") from error
    if not isinstance(content, str):
        raise InferenceError("the server's message is no text")
    return content
