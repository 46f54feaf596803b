"""Writing open answers over a read prefix: all questions of all pairs in one batch, greedily, until each has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from model.engine.chat_template import without_thoughts
from model.engine.scoring import Prefix, repeat_cache, rotary_positions
from model.engine.vlm import Vlm

SMALL_PARAMETERS = 50_000_000
"""Below this a CPU writes text with one thread."""


def write_rows(
    vlm: Vlm, prefix: Prefix, suffixes: Sequence[tuple[int, ...]], max_new_tokens: int
) -> list[tuple[str, bool]]:
    """Greedy answers of all questions of all rows in one batch; finished rows idle until the last one ends."""
    device, count = vlm.device, len(suffixes)
    cache = repeat_cache(prefix.cache, count)
    pairs = prefix.lengths.shape[0]
    width = max(len(suffix) for suffix in suffixes)
    # Padded on the left, so that every answer begins behind the last column.
    ids = torch.tensor([[0] * (width - len(s)) + list(s) for s in suffixes] * pairs, device=device)
    real = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in suffixes] * pairs, device=device)
    mask = torch.cat([prefix.mask.long().repeat_interleave(count, dim=0), real], dim=1)
    positions = prefix.lengths.repeat_interleave(count)[:, None] + (real.cumsum(1) - 1).clamp(min=0)
    stops = torch.tensor(vlm.stop_ids, device=device)
    done = torch.zeros(len(ids), dtype=torch.bool, device=device)
    written: list[Tensor] = []
    for _ in range(max_new_tokens):
        outputs = vlm.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        token = outputs.logits[:, -1].argmax(-1)
        # A row that has ended goes on with stop tokens, which `_text` cuts off, until the last row has ended.
        written.append(token.masked_fill(done, int(stops[0])))
        done |= torch.isin(token, stops)
        if bool(done.all()):
            break
        ids, positions = token[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    tokens = torch.stack(written, dim=1).tolist()
    return [(_text(vlm, row), bool(end)) for row, end in zip(tokens, done.tolist(), strict=True)]


def write_equal_rows(
    vlm: Vlm, prefix: Prefix, suffixes: Sequence[tuple[int, ...]], max_new_tokens: int
) -> list[tuple[str, bool]]:
    """As `write_rows` for one pair and an architecture that is not ours.

    Suffixes of equal length share a batch, so that none is padded and the architecture counts its positions itself.
    """
    answers: dict[int, tuple[str, bool]] = {}
    # Padding would need positions and masks in a form that each architecture defines for itself.
    for length in {len(suffix) for suffix in suffixes}:
        numbers = [number for number, suffix in enumerate(suffixes) if len(suffix) == length]
        written = _continue_greedily(vlm, prefix, [suffixes[number] for number in numbers], max_new_tokens)
        answers |= dict(zip(numbers, written, strict=True))
    return [answers[number] for number in range(len(suffixes))]


def _continue_greedily(
    vlm: Vlm, prefix: Prefix, suffixes: Sequence[tuple[int, ...]], max_new_tokens: int
) -> list[tuple[str, bool]]:
    """Greedy answers behind suffixes of one length."""
    device, count = vlm.device, len(suffixes)
    cache, fed = repeat_cache(prefix.cache, count), 0
    ids = torch.tensor(suffixes, device=device)
    mask = prefix.mask.long().expand(count, -1)
    stops = torch.tensor(vlm.stop_ids, device=device)
    done = torch.zeros(count, dtype=torch.bool, device=device)
    written: list[Tensor] = []
    for _ in range(max_new_tokens):
        mask = torch.cat([mask, mask.new_ones(ids.shape)], dim=1)
        outputs = vlm.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **rotary_positions(vlm, prefix, count, ids.shape[1], after=fed),
        )
        token = outputs.logits[:, -1].argmax(-1)
        written.append(token.masked_fill(done, int(stops[0])))
        done |= torch.isin(token, stops)
        if bool(done.all()):
            break
        fed, ids = fed + ids.shape[1], token[:, None]
    tokens = torch.stack(written, dim=1).tolist()
    return [(_text(vlm, row), bool(end)) for row, end in zip(tokens, done.tolist(), strict=True)]


def write_plainly(vlm: Vlm, inputs: Mapping[str, Tensor], max_new_tokens: int) -> tuple[str, bool]:
    """One greedy answer over the whole prompt by Transformers' own loop, and whether it ended by itself."""
    output = vlm.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, repetition_penalty=1.0)
    row = output[0, inputs["input_ids"].shape[1] :].tolist()
    return _text(vlm, row), bool(set(row) & set(vlm.stop_ids))


@contextlib.contextmanager
def decoding_threads(vlm: Vlm) -> Iterator[None]:
    """One thread while a small model writes on a CPU: its matrices are too small to share out.

    Measured on two busy cores with 4.5 M parameters: 96 tokens in 0.33 s with one thread, 1.8 to 2.3 s with two,
    which then wait for each other at every layer.
    """
    threads = torch.get_num_threads()
    small = sum(parameter.numel() for parameter in vlm.model.parameters()) < SMALL_PARAMETERS
    if vlm.device.type == "cpu" and small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _text(vlm: Vlm, row: Sequence[int]) -> str:
    stops = set(vlm.stop_ids)
    end = next((index for index, token in enumerate(row) if token in stops), len(row))
    # Some families' marks of thought are special tokens, which have to be seen before they are left out.
    answer = without_thoughts(vlm.tokenizer.decode(row[:end], skip_special_tokens=False))
    for token in vlm.tokenizer.all_special_tokens:
        answer = answer.replace(token, "")
    return answer.strip()
