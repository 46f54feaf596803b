"""The sample at each place of a mix: shares kept exactly, every sample once before any comes twice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BLOCK = 1024
"""In each run of so many places the pools have exactly their shares."""


def set_shares(sizes: Sequence[int], weights: Sequence[float], temperature: float) -> list[float]:
    """Share of each set, ∝ weight · size^(1/temperature); 1 keeps the sizes, infinity makes the weights alone count.

    Raises ValueError for a temperature below 1 or where nothing has a weight.
    """
    if temperature < 1:
        raise ValueError("the mixing temperature is at least 1")
    raised = [weight * float(size) ** (1 / temperature) for size, weight in zip(sizes, weights, strict=True)]
    total = sum(raised)
    if total <= 0:
        raise ValueError("no set with a weight above 0 holds a sample")
    return [value / total for value in raised]


class MixSchedule:
    """Place → (pool, item), the same on every rank and after every restart; no state but what the arguments give.

    Each block of places holds every pool so many times as its share says (at least once where it has one), in an order
    of its own; the items of a pool are gone through in a random order, and begun again in another one.
    """

    def __init__(self, sizes: Sequence[int], shares: Sequence[float], *, seed: int) -> None:
        if any(size <= 0 for size, share in zip(sizes, shares, strict=True) if share > 0):
            raise ValueError("a pool with a share holds at least one item")
        self.sizes = tuple(sizes)
        self.quotas = quotas(shares)
        self._seed = seed
        self._block = lru_cache(maxsize=4)(self._make_block)
        self._order = lru_cache(maxsize=2 * max(len(self.sizes), 1))(self._make_order)

    def __reduce__(self) -> tuple[object, ...]:
        # The caches cannot be pickled; a worker of the data loader makes its own.
        return _restore, (self.sizes, self.quotas, self._seed)

    def place(self, number: int) -> tuple[int, int]:
        """Pool and item of one place."""
        block, slot = divmod(number, BLOCK)
        owners, ranks = self._block(block)
        pool = int(owners[slot])
        # How many items this pool has given by now follows from block and slot alone, so a restart needs no counter.
        epoch, item = divmod(block * self.quotas[pool] + int(ranks[slot]), self.sizes[pool])
        return pool, int(self._order(pool, epoch)[item])

    def _make_block(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        owners = np.repeat(np.arange(len(self.quotas)), self.quotas)
        # 7 here and 8 below: two streams of random numbers from one seed.
        owners = np.random.default_rng([self._seed, 7, block]).permutation(owners)
        ranks = np.zeros(BLOCK, np.int64)
        for pool in range(len(self.quotas)):
            of_pool = owners == pool
            ranks[of_pool] = np.arange(int(of_pool.sum()))
        return owners, ranks

    def _make_order(self, pool: int, epoch: int) -> NDArray[np.int32]:
        order = np.random.default_rng([self._seed, 8, pool, epoch]).permutation(self.sizes[pool])
        return order.astype(np.int32)


def _restore(sizes: tuple[int, ...], quota: tuple[int, ...], seed: int) -> MixSchedule:
    return MixSchedule(sizes, [count / BLOCK for count in quota], seed=seed)


def quotas(shares: Sequence[float]) -> tuple[int, ...]:
    """Places of a block for each pool: BLOCK · share rounded by the largest remainders, at least 1 for a share > 0."""
    total = sum(shares)
    if total <= 0 or min(shares) < 0 or len(shares) > BLOCK:
        raise ValueError(f"shares are at least 0, not all 0, and at most {BLOCK}")
    exact = [BLOCK * share / total for share in shares]
    counts = [max(int(value), 1 if value > 0 else 0) for value in exact]
    while (missing := BLOCK - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        able = [n for n, value in enumerate(exact) if value > 0 and counts[n] + step >= 1]
        # Give to (or take from) the pool that is farthest below (above) its exact share; none falls below one place.
        counts[max(able, key=lambda n: step * (exact[n] - counts[n]))] += step
    return tuple(counts)
