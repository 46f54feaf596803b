"""A language model that answers prompts: the interface, and any OpenAI-compatible server behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from model.errors import InferenceError, RefusedRequestError
from model.remote.client import ServerClient


class TextModel(Protocol):
    """A language model that answers prompts at temperature 0."""

    @property
    def name(self) -> str:
        """The model's name, as it is recorded."""
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
        raise RefusedRequestError("the server's message is no text")
    return content


class LocalText:
    """A causal language model of Transformers on this machine, greedy, by its chat template where it has one."""

    def __init__(self, source: str, *, revision: str | None = None, device: str = "cpu") -> None:
        """source: folder or Hub id. Raises InferenceError where it cannot be loaded."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, revision=revision)
            self._model: Any = AutoModelForCausalLM.from_pretrained(source, revision=revision).to(device).eval()
        except (OSError, ValueError) as error:
            raise InferenceError(f"the text model {source} cannot be loaded: {error}") from error
        self._name = f"{source}@{revision}" if revision else source

    @property
    def name(self) -> str:
        """Source and revision."""
        return self._name

    def complete(self, prompts: Sequence[str], *, max_tokens: int) -> list[str]:
        """Greedy answers, one prompt at a time (no padding that could change them)."""
        import torch

        answers = []
        for prompt in prompts:
            if getattr(self._tokenizer, "chat_template", None):
                text = self._tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
                )
            else:
                text = prompt
            inputs = self._tokenizer(text, return_tensors="pt", add_special_tokens=False).to(self._model.device)
            with torch.inference_mode():
                ids = self._model.generate(
                    **inputs, max_new_tokens=max_tokens, do_sample=False, repetition_penalty=1.0,
                    pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                )  # fmt: skip
            answers.append(
                str(self._tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
            )
        return answers
