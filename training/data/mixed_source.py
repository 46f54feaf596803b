"""Samples over any mix of data sets: records of the readers, prepared conversations, caches of phantom pairs.

The same number gives the same sample on every rank and after every restart. Memory holds a few bytes a record: the
records themselves lie on disk (`record_index`), the images are decoded when they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from training.data.mixing import MixSchedule
from training.data.pools import Pool, SampleError
from training.data.samples import Dropped, Sample
from training.records.drops import DataError

ATTEMPTS = 50
"""So many unreadable items one after another are no accident: the run stops."""


@dataclass(slots=True, kw_only=True)
class MixedSource:
    """A SampleSource over pools. shares: of the places, one for each pool. findings: of the heads' targets.

    An item that cannot be made is replaced by another one of its pool, drawn from the number and so the same on every
    rank and in every run, and stands in the sample's `dropped`: the loop counts and logs it.
    """

    pools: Sequence[Pool]
    shares: Sequence[float]
    seed: int
    findings: tuple[str, ...]
    about: tuple[str, ...] = ()
    """The contents of the sets and what was left out of them, in lines."""
    taught: Mapping[str, int] = field(default_factory=dict)
    """The number of answers of the sets to each closed question (`training.instructions.coverage`)."""
    schedule: MixSchedule = field(init=False)

    def __post_init__(self) -> None:
        self.schedule = MixSchedule([pool.size for pool in self.pools], self.shares, seed=self.seed)

    @property
    def size(self) -> int:
        """The number of items of all pools; a record counts once for each stream that it can teach."""
        return sum(pool.size for pool in self.pools)

    def sample(self, number: int) -> Sample:
        """The sample with this number. Raises DataError where nothing near it can be read."""
        pool_number, item = self.schedule.place(number)
        pool = self.pools[pool_number]
        dropped: list[Dropped] = []
        for attempt in range(ATTEMPTS):
            rng = np.random.default_rng([self.seed, number, attempt])
            if attempt:  # another item of the same pool, so that the shares of the mix hold
                item = int(rng.integers(pool.size))
            try:
                sample = pool.make(item, rng)
            except SampleError as error:
                dropped.append(Dropped(pool=pool.name, reason=error.reason, which=error.which))
                continue
            return replace(sample, dropped=tuple(dropped)) if dropped else sample
        last = dropped[-1]
        raise DataError(
            f"{pool.name}: {ATTEMPTS} samples one after another could not be made, the last one because of "
            f"{last.which}: {last.reason}. Is the folder of the images there?"
        )

    def films(self, count: int) -> NDArray[np.uint8]:
        """Some current films, uint8 [count, size, size]."""
        return np.stack([self.sample(number).images[-1] for number in range(count)])
