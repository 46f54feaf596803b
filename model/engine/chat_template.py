"""A checkpoint's chat template, asked so that each image keeps its words, without thoughts and without today's date."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from jinja2 import TemplateError

from model.errors import CheckpointError

FIXED_DATE = dt.datetime(2024, 7, 26)  # noqa: DTZ001 - a date in a text, at no place
"""The date for a template that asks for today's: the same pair must be asked in the same words on every day."""
_DATE_CODES = ("-d", "-m", *"aAbBdeDFHIjmMpSTRuUVwWxXcyYGZz")
_SWITCHES: Mapping[str, bool] = {"enable_thinking": False, "thinking": False}
"""Variables by which templates can be asked not to think aloud."""
THOUGHTS: Sequence[tuple[str, str]] = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>", "<unused95>"),
)
"""Beginning and end of a thinking part, by family; the last is MedGemma's."""
_MARKS = ("first words", "second words", "third words")
_PRINTED = re.compile(r"""["']type["']\s*:""")
"""A template that knows no parts may write them as Python or JSON prints them."""
_RENDERING = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""The errors of templates that were written for another form of message."""

Conversation = list[dict[str, Any]]


class ImagePlace(StrEnum):
    """The form of message in which a template leaves images between their words, in the order of trial."""

    PARTS = "parts"
    """As parts of the message, which is what most templates take."""
    WORDS = "words"
    """As placeholders in one text part: the template writes all image parts before all words (LLaVA)."""
    STRING = "string"
    """As placeholders in a message that is a plain string: the template knows no parts."""


class ChatTemplate:
    """The template of a processor or of its tokenizer.

    Raises CheckpointError where there is none, and where no form of message keeps each image beside its words.
    """

    def __init__(self, processor: Any) -> None:
        self._tokenizer = processor.tokenizer
        self._template = _with_fixed_date(_template_of(processor))
        self._values = {name: value for name, value in _SWITCHES.items() if re.search(rf"\b{name}\b", self._template)}
        self._opening = _opening_of(self._tokenizer)
        self._placeholder = self._image_text() or str(getattr(processor, "image_token", ""))
        self._place = self._image_place()

    def render(self, conversation: Conversation, *, open_answer: bool) -> str:
        """The whole text, with the tokens that the tokenizer would put before it, each once.

        open_answer: up to where the model's answer begins, behind an empty thinking part where the template opens one.
        """
        text = self._write(conversation, self._place, open_answer=open_answer)
        start = self._tokenizer.bos_token
        # Some templates write the first token themselves and the tokenizer adds it again: two of them is a text that
        # the model never saw.
        while start and text.startswith(start * 2):
            text = text[len(start) :]
        if not text.startswith(self._opening):
            text = self._opening + text
        return _without_open_thought(text) if open_answer else text

    def _write(self, conversation: Conversation, place: ImagePlace, *, open_answer: bool = True) -> str:
        if place is not ImagePlace.PARTS:
            conversation = [self._with_placeholders(message, place) for message in conversation]
        text: str = self._tokenizer.apply_chat_template(
            conversation,
            chat_template=self._template,
            add_generation_prompt=open_answer,
            tokenize=False,
            **self._values,
        )
        return text

    def _with_placeholders(self, message: Mapping[str, Any], place: ImagePlace) -> dict[str, Any]:
        parts = (self._placeholder if part["type"] == "image" else str(part["text"]) for part in message["content"])
        text = "".join(parts)
        return {**message, "content": text if place is ImagePlace.STRING else [{"type": "text", "text": text}]}

    def _image_place(self) -> ImagePlace:
        """The first form that keeps the order of words and images."""
        first, second, third = ({"type": "text", "text": mark} for mark in _MARKS)
        asked = [{"role": "user", "content": [first, {"type": "image"}, second, {"type": "image"}, third]}]
        reason = "it writes them apart"
        for image_place in ImagePlace:
            try:
                text = self._write(asked, image_place)
            except _RENDERING as error:
                reason = f"it says: {error}"
                continue
            if _is_in_order(text):
                return image_place
        raise CheckpointError(
            f"the chat template does not keep two images beside their words in a user's message: {reason}; "
            "without that prior and current image cannot be told apart"
        )

    def _image_text(self) -> str:
        """The text that the template writes for an image part; empty where it takes none."""
        words = {"type": "text", "text": _MARKS[0]}
        try:
            bare, shown = (
                self._write([{"role": "user", "content": content}], ImagePlace.PARTS)
                for content in ([words], [{"type": "image"}, words])
            )
        except _RENDERING:
            return ""
        before = _common_length(bare, shown)
        behind = _common_length(bare[before:][::-1], shown[before:][::-1])
        image = shown[before : len(shown) - behind].strip()
        return "" if _PRINTED.search(image) else image


def without_thoughts(text: str) -> str:
    """The part of an answer behind its last thinking part; nothing where it ends in thought."""
    for opening, closing in THOUGHTS:
        _, end, answer = text.rpartition(closing)
        if end:
            text = answer
        if opening in text:
            return ""
    return text


def _without_open_thought(text: str) -> str:
    """A prompt whose thinking part is closed: an answer is wanted, and thoughts would use up its tokens."""
    for opening, closing in THOUGHTS:
        if text.rstrip().endswith(opening):
            return f"{text.rstrip()}\n\n{closing}\n\n"
    return text


def _template_of(processor: Any) -> str:
    for holder in (processor, processor.tokenizer):
        template = getattr(holder, "chat_template", None)
        if isinstance(template, Mapping):
            template = template.get("default")
        if template:
            return str(template)
    raise CheckpointError("the checkpoint has no chat template; without one nobody knows how to ask it")


def _with_fixed_date(template: str) -> str:
    """The template with a `strftime_now` of its own where it calls it; Transformers lets no other function in."""
    if "strftime_now" not in template:
        return template
    filters = "".join(f" | replace('%{code}', '{FIXED_DATE.strftime('%' + code)}')" for code in _DATE_CODES)
    return f"{{% macro strftime_now(form) %}}{{{{ form{filters} }}}}{{% endmacro +%}}{template}"


def _opening_of(tokenizer: Any) -> str:
    """The special tokens that a tokenizer puts before a text, each once: the start token, or GLM's two."""
    whole, bare = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    before = next((start for start in range(len(whole)) if whole[start : start + len(bare)] == bare), 0)
    return "".join(dict.fromkeys(tokenizer.convert_ids_to_tokens(whole[:before])))


def _common_length(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))


def _is_in_order(text: str) -> bool:
    """Tell whether something stands between each two of the marks, which stand once each, and no part is printed."""
    places = [text.find(mark) for mark in _MARKS]
    if -1 in places or places != sorted(places) or any(text.count(mark) != 1 for mark in _MARKS):
        return False
    gaps = [text[start + len(mark) : stop] for mark, start, stop in zip(_MARKS, places, places[1:], strict=False)]
    return all(gap.strip() for gap in gaps) and not _PRINTED.search(text)
