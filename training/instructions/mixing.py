"""Mixing of conversations: pools by stream, their weights, and one endless sequence of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from training.instructions.streams import Conversation, Stream


def mixing_weights(counts: Mapping[Stream, int], temperature: float) -> dict[Stream, float]:
    """Share of each stream, ∝ count^(1/temperature): 1 keeps the counts, infinity makes all streams equal.

    Raises ValueError for a temperature below 1 (it would starve the small streams further).
    """
    if temperature < 1:
        raise ValueError("the mixing temperature is at least 1")
    # As XLM-R mixes languages: raising to 1/T lifts the small streams without making them equal.
    raised = {stream: float(count) ** (1 / temperature) for stream, count in counts.items() if count}
    total = sum(raised.values())
    return {stream: value / total for stream, value in raised.items()}


def mix_pools(
    pools: Mapping[Stream, Sequence[Conversation]], *, temperature: float, seed: int, length: int
) -> Iterator[Conversation]:
    """`length` conversations drawn stream by stream with the mixing weights; each pool is gone through in its own
    shuffled order and begun again when it is used up, so that nothing is drawn twice before all were drawn once."""
    rng = np.random.default_rng(seed)
    weights = mixing_weights({stream: len(pool) for stream, pool in pools.items()}, temperature)
    names = list(weights)
    cycles = {name: _cycle(pools[name], np.random.default_rng([seed, number])) for number, name in enumerate(names)}
    for _ in range(length if names else 0):
        yield next(cycles[names[int(rng.choice(len(names), p=list(weights.values())))]])


def _cycle(pool: Sequence[Conversation], rng: np.random.Generator) -> Iterator[Conversation]:
    while True:
        for number in rng.permutation(len(pool)):
            yield pool[number]


def pools_of(made: Iterable[Conversation]) -> dict[Stream, list[Conversation]]:
    """Conversations sorted by stream, for `mix_pools`."""
    pools: dict[Stream, list[Conversation]] = {}
    for conversation in made:
        pools.setdefault(conversation.stream, []).append(conversation)
    return pools
