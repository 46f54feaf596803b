"""Scoring closed questions over a read prefix: packed rows, one row for each answer, or the whole prompt again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.engine.plan import PackedPlan, QuestionTokens
from model.engine.vlm import ALIGNED, NvilaVlm, Vlm
from model.nvila.last_layer import last_layer_at
from model.nvila.transformers_parts import DynamicLayer, DynamicSlidingWindowLayer

ROWS_AT_ONCE = 32
"""Batch rows of one forward over a repeated cache; bounds memory for long prefixes."""


@dataclass(slots=True, kw_only=True, eq=False)
class Prefix:
    """A read prefix: the cache, the real length of each row [B], and which cached tokens are real [B, P]."""

    cache: Any
    lengths: Tensor
    mask: Tensor


def score_packed(vlm: NvilaVlm, prefix: Prefix, plan: PackedPlan) -> list[list[tuple[float, ...]]]:
    """One pass of the language model over pairs x rows; the vocabulary only where an answer token is predicted."""
    device, llm = vlm.device, vlm.model.llm
    pairs, (count, width) = prefix.lengths.shape[0], plan.ids.shape
    # Batch rows lie pair by pair: what a pair has (prefix, length) repeats in place, what a plan has repeats as a
    # whole.
    own = plan.mask.to(device).repeat(pairs, 1, 1)[:, None]
    shared = prefix.mask.repeat_interleave(count, dim=0)[:, None, None, :].expand(-1, 1, width, -1)
    # Padding has offset -1. Nobody sees it, but a position is never negative.
    offsets = plan.offsets.to(device).clamp(min=0).repeat(pairs, 1)
    # Several answer tokens are predicted from the same place: each place is worked out once, and no other.
    with last_layer_at(llm, plan.places.to(device).repeat(pairs, 1)):
        hidden = llm.model(
            input_ids=plan.ids.to(device).repeat(pairs, 1),
            attention_mask=_mask(vlm, torch.cat([shared, own], dim=-1)),
            # Behind the pair's own length: a shorter prefix is padded in the cache, and padding takes up no position.
            position_ids=prefix.lengths.repeat_interleave(count)[:, None] + offsets,
            past_key_values=repeat_cache(prefix.cache, count),
            use_cache=True,
        ).last_hidden_state
    # In float32: half precision keeps two or three digits of a log-probability, and answers are told apart by less.
    logs = llm.lm_head(hidden.reshape(pairs, plan.places.numel(), -1)).float().log_softmax(-1)
    taken = logs[:, plan.readings.to(device), plan.targets.to(device)]  # [pairs, answer tokens]
    totals = torch.zeros(pairs, sum(plan.answers), device=device).index_add_(1, plan.owners.to(device), taken)
    return [[tuple(part.tolist()) for part in row.split(plan.answers)] for row in totals.cpu()]


def _mask(vlm: Vlm, seen: Tensor) -> Tensor:
    """A bool mask [B, 1, Q, K] in the form that the attention implementation takes."""
    if vlm.model.config._attn_implementation == "sdpa":
        return seen
    floor = torch.finfo(vlm.model.dtype).min
    return torch.zeros_like(seen, dtype=vlm.model.dtype).masked_fill(~seen, floor)


def score_rows(vlm: Vlm, prefix: Prefix, closed: Sequence[QuestionTokens]) -> list[tuple[float, ...]]:
    """Total log-probability of each answer of each question, one batch row for each over a repeated cache."""
    rows = [(entry.suffix, answer) for entry in closed for answer in entry.answers]
    totals: list[float] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        totals += _score_chunk(vlm, prefix, rows[start : start + ROWS_AT_ONCE])
    # Rows lie question by question, in the order in which they were asked.
    split, used = [], 0
    for entry in closed:
        split.append(tuple(totals[used : used + len(entry.answers)]))
        used += len(entry.answers)
    return split


def _score_chunk(vlm: Vlm, prefix: Prefix, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[float]:
    """Score rows (suffix, answer), padded on the right, over a copy of the cache for each."""
    device = vlm.device
    # The last token of an answer is predicted and never fed.
    fed = [suffix + answer[:-1] for suffix, answer in rows]
    width = max(len(row) for row in fed)
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in fed], device=device)
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in fed], device=device)
    cache = repeat_cache(prefix.cache, len(rows))
    mask = torch.cat([prefix.mask.long().expand(len(rows), -1), real], dim=1)
    outputs = vlm.model(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        **rotary_positions(vlm, prefix, len(rows), width),
    )
    totals = []
    for index, (suffix, answer) in enumerate(rows):
        # The logits at a token are of the next one: those of an answer begin at the last token of the suffix.
        logs = outputs.logits[index, len(suffix) - 1 : len(suffix) - 1 + len(answer)].float().log_softmax(-1)
        totals.append(float(logs.gather(1, torch.tensor(answer, device=device)[:, None]).sum()))
    return totals


def rotary_positions(vlm: Vlm, prefix: Prefix, rows: int, width: int, *, after: int = 0) -> dict[str, Tensor]:
    """Positions of `width` tokens, `after` tokens behind a cached prefix, for the Qwen-VL family: three equal parts,
    moved by what images saved. Nothing for the others.

    The family's own computation covers the whole mask, not only the new tokens, so it fails behind a cache.
    """
    deltas = getattr(getattr(vlm.model, "model", None), "rope_deltas", None)
    if deltas is None:
        return {}
    behind = prefix.lengths[:1] + after + torch.arange(width, device=vlm.device)
    return {"position_ids": (behind + deltas[0].to(behind)).expand(3, rows, width)}


def plain_score(vlm: Vlm, inputs: Mapping[str, Tensor], answer: tuple[int, ...]) -> float:
    """Total log-probability of one answer by a pass over the whole prompt."""
    extended = _extend_inputs(inputs, answer[:-1])
    logits = vlm.model(**extended).logits[0, -len(answer) :].float().log_softmax(-1)
    return float(logits.gather(1, torch.tensor(answer, device=logits.device)[:, None]).sum())


def _extend_inputs(inputs: Mapping[str, Tensor], ids: Sequence[int]) -> dict[str, Tensor]:
    """The same inputs with more text tokens at the end."""
    fill = {"input_ids": torch.tensor([list(ids)], dtype=torch.long), "attention_mask": torch.ones(1, len(ids))}
    result = dict(inputs)
    for name in ALIGNED:
        if name in inputs:
            more = fill.get(name, torch.zeros(1, len(ids)))
            result[name] = torch.cat([inputs[name], more.to(inputs[name])], dim=1)
    return result


def repeat_cache(cache: Any, times: int) -> Any:
    """A cache of its own in which each row stands `times` times; the original may be continued again."""
    twin = copy.copy(cache)
    # These two append by making new tensors, so the prefix's are shared; any other kind may write in place.
    shared = (DynamicLayer, DynamicSlidingWindowLayer)
    twin.layers = [copy.copy(layer) if type(layer) in shared else copy.deepcopy(layer) for layer in cache.layers]
    if times > 1:
        twin.batch_repeat_interleave(times)
    return twin
