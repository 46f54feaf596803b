"""Samples → one batch of tensors: many questions of a pair packed behind one shared prefix.

Each question with its answer is a segment of its own. It sees the prefix (system message, texts, images) and itself,
and its positions go on where the prefix ends, so images and prefix are computed once for all questions of a pair and
every question is answered exactly as the engine asks it: alone behind the same prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.nvila.processing import NvilaProcessor
from model.nvila.tiling import TiledImage, Tiling
from model.questions.prompts import render_answer, render_prefix, render_question
from training.data.samples import UNKNOWN, Dropped, Sample, Targets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedBatch:
    """One step's input.

    input_ids, position_ids, labels: int64 [B, L]; labels UNKNOWN where no loss is taken. mask: bool [B, 1, L, L], True
    where a row may look. pixel_values float32 [tiles, 3, Z, Z], image_grids int64 [images, 2], image_counts int64 [B].
    present, left, right, severity: float32 [B, 2, K], NaN where not known; change: int64 [B, K]; marks: uint8
    [B, 2, K, side, side], marked: bool [B], whose marks are known. None without targets. dropped: what the samples
    stand in for. features: float32 [tiles, patches, C] in the place of pixel_values, where the samples bring them.
    """

    image_grids: Tensor
    image_counts: Tensor
    pixel_values: Tensor | None = None
    features: Tensor | None = None
    input_ids: Tensor | None = None
    position_ids: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    present: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None
    severity: Tensor | None = None
    change: Tensor | None = None
    marks: Tensor | None = None
    marked: Tensor | None = None
    dropped: tuple[Dropped, ...] = ()

    def to(self, device: torch.device) -> PackedBatch:
        """The same on another device."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device, non_blocking=True) for k, v in given.items() if isinstance(v, Tensor)}
        return PackedBatch(**moved, dropped=self.dropped)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRow:
    """One sample's tokens. segments: 0 for the prefix, else the number of the question, one for each token."""

    ids: list[int]
    positions: list[int]
    labels: list[int]
    segments: list[int]


class Collator:
    """Turns samples into batches with the processor of the checkpoint that is trained."""

    def __init__(self, processor: NvilaProcessor, *, max_length: int = 4096, texts: bool = True) -> None:
        self.processor = processor
        self.max_length = max_length
        self.texts = texts
        self._blank: list[TiledImage] = []
        self._ids = lru_cache(maxsize=20_000)(self._tokenise)

    def _tokenise(self, text: str) -> tuple[int, ...]:
        return tuple(self.processor.tokenizer(text, add_special_tokens=False).input_ids)

    def __call__(self, samples: Sequence[Sample]) -> PackedBatch:
        """Collate. Raises ValueError for a sequence longer than `max_length`: nothing is cut off silently."""
        tiled = [self._cut_tiles(sample) for sample in samples]
        parts: dict[str, Any] = self.processor.image_inputs(tiled)
        # The frozen tower's output was computed before: the pixels are not needed, and are not moved to the device.
        if any(sample.features for sample in samples):
            del parts["pixel_values"]
            parts["features"] = torch.from_numpy(
                np.stack([image for sample in samples for image in sample.features]).astype(np.float32)
            )
        parts |= _stack_targets([sample.targets for sample in samples])
        if self.texts:
            rows = [self.pack(sample, images) for sample, images in zip(samples, tiled, strict=True)]
            longest = max(len(row.ids) for row in rows)
            if longest > self.max_length:
                raise ValueError(f"a sequence has {longest} tokens, more than max_length = {self.max_length}")
            parts |= pad_rows(rows, self.processor.tokenizer.pad_token_id)
        return PackedBatch(**parts, dropped=tuple(drop for sample in samples for drop in sample.dropped))

    def _cut_tiles(self, sample: Sample) -> list[TiledImage]:
        """The tiles of a sample's images; where it brings features, empty ones that only tell their number."""
        if not sample.features:
            return self.processor.tile(sample.images, Tiling(self.processor.tiling))
        if not self._blank:
            side = int(self.processor.geometry["tile_side"])
            self._blank = self.processor.tile([np.zeros((side, side), np.uint8)], Tiling.NEVER)
        return self._blank * len(sample.features)

    def pack(self, sample: Sample, tiled: Sequence[Any]) -> PackedRow:
        """Prefix and questions of one sample as tokens."""
        layout = sample.layout
        if layout.priors and self.processor.geometry["difference_tokens"]:
            layout = replace(layout, difference=True)  # as the engine lays it out for such a checkpoint
        prefix = self.processor.expand_ids(render_prefix(layout), tiled)
        ids, positions = list(prefix), list(range(len(prefix)))
        labels, segments = [UNKNOWN] * len(prefix), [0] * len(prefix)
        for number, turn in enumerate(sample.turns, start=1):
            if turn.answer is None:
                raise ValueError(f"the turn {turn.question!r} has no answer to learn")
            first = number == 1 or not sample.conversation
            question = self._ids(render_question(turn.question, first=first))
            answer = self._ids(render_answer(turn.answer))
            # A conversation is one segment in which each turn sees those before it, as a chat is asked. Packed
            # questions all go on where the prefix ends, whatever stands between: each is alone behind it.
            start = len(ids) if sample.conversation else len(prefix)
            length = len(question) + len(answer)
            ids += [*question, *answer]
            positions += range(start, start + length)
            labels += [*([UNKNOWN] * len(question)), *answer]  # the loss is of answers; questions are given
            segments += [0 if sample.conversation else number] * length
        return PackedRow(ids=ids, positions=positions, labels=labels, segments=segments)


def pad_rows(rows: Sequence[PackedRow], pad: int) -> dict[str, Tensor]:
    """Rows → input_ids, position_ids, labels [B, L] and the mask [B, 1, L, L]."""
    length = max(len(row.ids) for row in rows)
    shape = (len(rows), length)
    ids, positions = np.full(shape, pad, np.int64), np.zeros(shape, np.int64)
    labels, segments = np.full(shape, UNKNOWN, np.int64), np.full(shape, -1, np.int64)
    for index, row in enumerate(rows):
        used = slice(0, len(row.ids))
        ids[index, used], positions[index, used] = row.ids, row.positions
        labels[index, used], segments[index, used] = row.labels, row.segments
    looking, looked_at = segments[:, :, None], segments[:, None, :]
    # Of what stands before it a token sees its own question and the prefix (segment 0); padding is segment -1.
    causal = np.tril(np.ones((length, length), bool))
    # padding looks at itself: a row that may look nowhere would become NaN
    mask = causal & ((looked_at == looking) | (looked_at == 0)) & (looked_at >= 0) | np.eye(length, dtype=bool)
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": torch.from_numpy(positions),
        "labels": torch.from_numpy(labels),
        "mask": torch.from_numpy(mask[:, None]),
    }


def _stack_targets(targets: Sequence[Targets | None]) -> dict[str, Tensor]:
    known = [target for target in targets if target is not None]
    if not known:
        return {}
    if len(known) != len(targets):
        raise ValueError("either every sample of a batch has targets or none has")
    names = ("present", "left", "right", "severity", "change")
    stacked = {name: torch.from_numpy(np.stack([getattr(target, name) for target in known])) for name in names}
    some = next((target.marks for target in known if target.marks is not None), None)
    if some is not None:
        # Zeros hold the place of marks that nobody made; `marked` keeps them out of the loss.
        marks = [some * 0 if target.marks is None else target.marks for target in known]
        stacked["marks"] = torch.from_numpy(np.stack(marks))
        stacked["marked"] = torch.tensor([target.marks is not None for target in known])
    return stacked
