"""A page that previews the training data: conversations with their images, prompts and the part the loss sees."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, Template, select_autoescape

from model.errors import PixelError
from model.questions.prompts import render_conversation
from training.data.datasets import load_image
from training.evaluation.report import picture_url
from training.instructions.mixing import mix_pools, mixing_weights, pools_of
from training.instructions.streams import (
    Conversation,
    ExpertText,
    InstructionOptions,
    LongAnswers,
    Stream,
    conversations,
)
from training.records.drops import DataError, DropReport
from training.records.record import Record

MIXING_TEMPERATURE = 3.0
"""Default of the recipes: between the streams' own sizes (1) and equal shares (infinity)."""


def write_preview(
    records: Iterable[Record],
    options: InstructionOptions,
    page: Path,
    report: DropReport,
    *,
    data: str,
    samples: int = 24,
    seed: int = 0,
    temperature: float = MIXING_TEMPERATURE,
    expert: ExpertText | None = None,
    long_answers: LongAnswers | None = None,
) -> int:
    """Write the page; return the number of samples shown. Raises DataError where no record gives a conversation.

    A sample whose image cannot be decoded is counted and another one shown.
    """
    rng = np.random.default_rng(seed)
    pools = pools_of(
        conversation
        for record in records
        for conversation in conversations(record, options, rng, report, expert=expert, long_answers=long_answers)
    )
    total = sum(len(pool) for pool in pools.values())
    if not total:
        raise DataError(f"{data} gives no conversation with these streams:\n" + "\n".join(report.lines()))
    # More are drawn than shown: some come twice, and some have an image that cannot be decoded.
    drawn = mix_pools(pools, temperature=temperature, seed=seed, length=samples * 4)
    shown = _distinct_samples(drawn, samples, report)
    page.parent.mkdir(parents=True, exist_ok=True)
    text = _page_template().render(
        data=data,
        shown=len(shown),
        total=total,
        temperature=temperature,
        streams=_stream_rows({stream: len(pool) for stream, pool in pools.items()}, temperature),
        samples=shown,
        dropped=report.lines(),
    )
    page.write_text(text, "utf-8")
    return len(shown)


def _stream_rows(sizes: dict[Stream, int], temperature: float) -> list[tuple[str, int, float]]:
    weights = mixing_weights(sizes, temperature)
    return [(stream.value, size, weights[stream]) for stream, size in sizes.items()]


def _page_template() -> Template:
    environment = Environment(
        loader=PackageLoader("training", "templates"), autoescape=select_autoescape(), trim_blocks=True
    )
    return environment.get_template("preview.html")


def _distinct_samples(drawn: Iterable[Conversation], most: int, report: DropReport) -> list[dict[str, object]]:
    shown: list[dict[str, object]] = []
    seen: set[str] = set()
    for conversation in drawn:
        if len(shown) >= most:
            break
        if conversation.conversation_id in seen:
            continue
        seen.add(conversation.conversation_id)
        sample = _sample(conversation, report)
        if sample is not None:
            shown.append(sample)
    return shown


def _sample(conversation: Conversation, report: DropReport) -> dict[str, object] | None:
    images = []
    slots = [slot.value for slot in conversation.layout.slots]
    for name, image in zip(slots, conversation.images, strict=False):
        try:
            images.append((name, picture_url(load_image(image))))
        except PixelError as error:
            report.drop(f"image cannot be decoded: {error}", conversation.conversation_id)
            return None
    return {
        "stream": conversation.stream.value,
        "conversation_id": conversation.conversation_id,
        "images": images,
        "turns": conversation.turns,
        "parts": render_conversation(conversation.layout, conversation.turns),
    }
