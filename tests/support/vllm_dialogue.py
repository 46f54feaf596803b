"""The requests that the node sends to a model server, each once: the real server's answers to them are on record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from model.questions.battery import QuestionType, closed_question, difference_question
from model.questions.prompts import PromptLayout, Turn, messages
from model.remote_engine import data_url, with_images
from tests.support.tiny_nvila import picture

RECORDED = Path(__file__).parents[1] / "model/remote/vllm-answers.json"
"""{"server": …, "answers": {name: {"status": …, "reply": …}}}, written by `RECORD=1 make test-vllm`."""
QUESTION = closed_question(QuestionType.PRESENCE, "pleural_effusion")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRequest:
    """One request. path: below the server's root. body: None for a GET."""

    name: str
    path: str
    body: dict[str, Any] | None = None

    def send(self, client: httpx.Client) -> httpx.Response:
        """Send it."""
        return client.get(self.path) if self.body is None else client.post(self.path, json=self.body)


def node_requests(model: str, ids: list[int]) -> list[ServerRequest]:
    """Every kind of request that `model.remote` makes. ids: tokens of the two answers, by the server's tokeniser."""

    def chat(text: str, *, pictures: int = 2, **fields: Any) -> dict[str, Any]:
        said = messages(PromptLayout(priors=pictures - 1), [Turn(question=text)])
        urls = [data_url(picture(number)) for number in range(pictures)]
        body: dict[str, Any] = {
            "model": model,
            "messages": with_images(said, urls),
            "max_tokens": 1,
            "temperature": 0.0,
        }
        answer = fields.pop("answer", None)
        if answer is not None:
            body["messages"].append({"role": "assistant", "content": answer})
            body["add_generation_prompt"] = False
        return body | fields

    asked = QUESTION.text
    return [
        ServerRequest(name="models", path="/v1/models"),
        ServerRequest(
            name="tokenize", path="/tokenize", body={"model": model, "prompt": "yes", "add_special_tokens": False}
        ),
        ServerRequest(name="detokenize", path="/detokenize", body={"model": model, "tokens": ids[:1]}),
        ServerRequest(name="top", path=CHAT, body=chat(asked, logprobs=True, top_logprobs=20)),
        ServerRequest(name="token ids", path=CHAT, body=chat(asked, logprobs=True, logprob_token_ids=ids)),
        ServerRequest(name="prompt", path=CHAT, body=chat(asked, answer="yes", prompt_logprobs=0)),
        ServerRequest(
            name="continued",
            path=CHAT,
            body=chat(asked, answer="mild", continue_final_message=True, logprobs=True, logprob_token_ids=ids),
        ),
        ServerRequest(name="open", path=CHAT, body=chat(difference_question().text, max_tokens=8)),
    ]


CHAT = "/v1/chat/completions"


def shape(value: Any) -> Any:
    """The form of a JSON value: keys and types; of a list the form of its first member that is no null; keys that are
    tokens count as one."""
    if isinstance(value, dict):
        if value and all(key.isdigit() for key in value):
            return {"TOKEN": shape(next(iter(value.values())))}
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(next((item for item in value if item is not None), None))]
    if isinstance(value, bool) or value is None:
        return str(value)
    return "number" if isinstance(value, int | float) else type(value).__name__


def unknown_fields(own: Any, real: Any, path: str = "") -> list[str]:
    """Where a form has a field, or a type, that the real server's form has not."""
    if isinstance(own, dict) and isinstance(real, dict):
        found = [f"{path}/{key}: not in the real answer" for key in own if key not in real]
        return found + [
            line for key in own if key in real for line in unknown_fields(own[key], real[key], f"{path}/{key}")
        ]
    if isinstance(own, list) and isinstance(real, list):
        return unknown_fields(own[0], real[0], f"{path}[]")
    return [] if own == real else [f"{path}: {own}, the real answer has {real}"]
