"""The one layout of system message, images, texts, question and answer, for training and serving alike.

A prompt is prefix + suffix. The prefix (system message, images in fixed order, optional texts) is the same for all
questions of a pair and is what the engine caches; the suffix is one question. Both together are exactly the chat prompt
of NVILA (Qwen2's ChatML template, NVlabs/VILA), so that the text path and the chat-template path agree.

The prefix ends with a line feed and a question starts with a letter: byte-pair tokenisers of the Qwen2 family split
before every letter that follows a line feed, so tokenising the two apart equals tokenising them together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from model.schema import PatientContext

SYSTEM_MESSAGE = "You are a helpful assistant"
"""NVILA's own, without a full stop."""
IMAGE_PLACEHOLDER = "<image>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"

NO_PRIOR = "prior image: none"
"""The text for an absent prior: words that the model learns, never a black image (BioViL-T, Bannur et al. 2023)."""


class ImageSlot(StrEnum):
    """The image at a placeholder; the value is the word before it."""

    EARLIER = "earlier image"
    """Older than the prior, oldest first; only in sequences of more than two images."""
    PRIOR = "prior image"
    CURRENT = "current image"
    DIFFERENCE = "difference"
    """Projected features of current − prior, no image of its own (VED, LUMEN.md section 6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLayout:
    """The contents of the prefix.

    priors: number of earlier images, the last one being the prior; 0 is said in words.
    difference: a placeholder for the difference feature follows the images; only with a prior.
    days: between each earlier image and the current one, oldest first; empty where times are not said, None for one
    that is not known. expert, context: texts of `model.experts.expert` and `context_text`; None where not given.
    """

    priors: int = 0
    days: tuple[int | None, ...] = ()
    difference: bool = False
    expert: str | None = None
    context: str | None = None
    system: str = SYSTEM_MESSAGE

    def __post_init__(self) -> None:
        if self.priors < 0:
            raise ValueError("the number of prior images cannot be negative")
        if self.difference and self.priors == 0:
            raise ValueError("without a prior there is no difference to show")
        if self.days and len(self.days) != self.priors:
            raise ValueError(f"{len(self.days)} times for {self.priors} prior images")

    @property
    def slots(self) -> tuple[ImageSlot, ...]:
        """The image at each placeholder, in order."""
        earlier = (ImageSlot.EARLIER,) * max(self.priors - 1, 0)
        prior = (ImageSlot.PRIOR,) if self.priors else ()
        difference = (ImageSlot.DIFFERENCE,) if self.difference else ()
        return (*earlier, *prior, ImageSlot.CURRENT, *difference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One question and, in training, its answer."""

    question: str
    answer: str | None = None


# Control tokens and placeholders: text that came from a header must not be able to open a turn or claim an image.
_CONTROL = re.compile(r"<\|.*?\|>|</?[a-z_][\w/-]*>|\[/?[A-Z_]+\]", re.I)


def clean_text(text: str) -> str:
    """Foreign text made fit for a prompt: control tokens and placeholders out, one line, single spaces."""
    previous = None
    while previous != text:  # removing one token must not assemble another
        previous, text = text, _CONTROL.sub(" ", text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def context_text(context: PatientContext | None) -> str | None:
    """The context as one line, or None where nothing is known: "patient: 67 years, F; indication: dyspnea"."""
    if context is None:
        return None
    person = []
    if context.age_years is not None:
        person.append(f"{context.age_years} years")
    if context.sex:
        person.append(clean_text(context.sex))
    parts = [", ".join(person)] if person else []
    if context.indication:
        parts.append(f"indication: {clean_text(context.indication)}")
    if context.labs:
        # Sorted, so that the same chart is the same text, whatever order it came in.
        labs = ", ".join(f"{clean_text(name)} {clean_text(value)}" for name, value in sorted(context.labs.items()))
        parts.append(f"labs: {labs}")
    if context.treatments:
        parts.append(f"treatments: {', '.join(clean_text(name) for name in context.treatments)}")
    return f"patient: {'; '.join(parts)}" if parts else None


def days_text(days: int) -> str:
    """A time between two images as the prompt says it: "1 day", "14 days"."""
    return f"{days} day" if days == 1 else f"{days} days"


def _lines(layout: PromptLayout) -> list[tuple[str, bool]]:
    """The user's lines before the question, as (text, whether an image placeholder follows it)."""
    lines = [] if layout.priors else [(NO_PRIOR, False)]
    for number, slot in enumerate(layout.slots):
        days = layout.days[number] if number < len(layout.days) else None
        lines.append((f"{slot.value}{'' if days is None else f', {days_text(days)} before'}: ", True))
    lines += [(clean_text(text), False) for text in (layout.expert, layout.context) if text]
    return lines


def render_prefix(layout: PromptLayout) -> str:
    """Everything up to the question. Ends with a line feed; holds one `<image>` for each of `layout.slots`."""
    body = "".join(f"{text}{IMAGE_PLACEHOLDER if image else ''}\n" for text, image in _lines(layout))
    return f"{TURN_START}system\n{layout.system}{TURN_END}\n{TURN_START}user\n{body}"


def render_question(question: str, *, first: bool = True) -> str:
    """The suffix that asks: what follows the prefix, or, with first=False, what follows an earlier answer.

    Raises ValueError for a question that does not start with a letter: its first token could merge with the prefix.
    """
    text = clean_text(question)
    if not text[:1].isalpha():
        raise ValueError(f"a question starts with a letter, not {question!r}")
    opening = "" if first else f"\n{TURN_START}user\n"
    return f"{opening}{text}{TURN_END}\n{TURN_START}assistant\n"


def render_answer(answer: str) -> str:
    """The answer with its end token: the only part that the training loss is taken over."""
    return f"{clean_text(answer)}{TURN_END}"


def render_conversation(layout: PromptLayout, turns: Sequence[Turn]) -> list[tuple[str, bool]]:
    """A whole conversation as (text, whether the loss is taken over it); the texts joined are the prompt.

    Only the last turn may lack its answer: then the text ends where the model goes on.
    """
    if not turns or any(turn.answer is None for turn in turns[:-1]):
        raise ValueError("a conversation has at least one turn, and all but the last are answered")
    parts = [(render_prefix(layout), False)]
    for number, turn in enumerate(turns):
        parts.append((render_question(turn.question, first=number == 0), False))
        if turn.answer is not None:
            parts.append((render_answer(turn.answer), True))
    return parts


def messages(layout: PromptLayout, turns: Sequence[Turn], *, system: bool = False) -> list[dict[str, Any]]:
    """The same content for a processor's chat template (Transformers' message format).

    Images stand as {"type": "image"} in the order of `layout.slots`. The difference slot belongs to our own models:
    ValueError where it is asked for here. system: whether the template takes a system message.
    """
    if layout.difference:
        raise ValueError("the difference feature has no place in another model's chat template")
    result: list[dict[str, Any]] = []
    if system:
        result.append({"role": "system", "content": [{"type": "text", "text": layout.system}]})
    for number, turn in enumerate(turns):
        question = clean_text(turn.question)
        content = _content(layout, question) if number == 0 else [{"type": "text", "text": question}]
        result.append({"role": "user", "content": content})
        if turn.answer is not None:
            result.append({"role": "assistant", "content": [{"type": "text", "text": clean_text(turn.answer)}]})
    return result


def _content(layout: PromptLayout, question: str) -> list[dict[str, Any]]:
    """The first user message: texts and images in turn, each line feed kept in the text that follows its image."""
    content: list[dict[str, Any]] = []
    pending = ""
    for text, image in _lines(layout):
        pending += text
        if image:
            content += [{"type": "text", "text": pending}, {"type": "image"}]
            pending = ""
        pending += "\n"
    return [*content, {"type": "text", "text": pending + question}]
