"""The run of a long job: which shards are missing, who makes them, and how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dicom_node.bulk.shards import ShardFolder
from dicom_node.bulk.work import Batch, Item, Mapper, Outcome, Work

BYTES_OF_PROCESS: Final = 1_500_000_000
"""Of a process beside its weights: libraries, the decoder's child, and the images of a batch."""
WEIGHTS_FACTOR: Final = 2.0
"""Weights in half precision are widened on a processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSizes:
    """The sizes into which the items of a run are cut.

    batch: items read and answered together. shard: batches of one shard, which is one file and the least that a restart
    does again.
    """

    batch: int
    shard: int

    def count_batches(self, items: int) -> int:
        """Count the batches of so many items."""
        return -(-items // self.batch)

    def shards(self, items: Sequence[Item]) -> list[list[Batch[Item]]]:
        """The batches of every shard, in the order of the items."""
        groups = (items[at : at + self.batch] for at in range(0, len(items), self.batch))
        batches = [Batch(number=number, items=tuple(group)) for number, group in enumerate(groups)]
        return [batches[at : at + self.shard] for at in range(0, len(batches), self.shard)]


def run_shards(
    work: Work[Item, Any, Outcome],
    items: Sequence[Item],
    folder: ShardFolder,
    mapper: Mapper,
    *,
    cut: ShardSizes,
    encode: Callable[[list[Outcome]], bytes],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Path], int]:
    """Make every shard that is missing; return the paths of all, in order, and how many were there already.

    Parameters
    ----------
    work
        The two halves of the job, for one batch.
    mapper
        Runs them, here or on a cluster; batches may come back in any order.
    encode
        Makes the bytes of a shard's file of its outcomes, in the order of the items.
    progress
        Called with (items done, items to do) of this run: the shards that were there already are in neither, so that a
        time left reckoned from it is that of the work left.

    Raises
    ------
    BulkError
        The run cannot go on; the finished shards are kept, and the same call goes on from them.
    """
    shards = cut.shards(items)
    with folder.lock():
        missing = [number for number in range(len(shards)) if not folder.is_finished(number)]
        owner = {batch.number: number for number in missing for batch in shards[number]}
        sizes = {batch.number: len(batch.items) for number in missing for batch in shards[number]}
        done, total = 0, sum(sizes.values())
        gathered: dict[int, dict[int, list[Outcome]]] = {}
        progress(0, total)
        for batch, outcomes in mapper.map(work, (batch for number in missing for batch in shards[number])):
            number = owner[batch]
            parts = gathered.setdefault(number, {})
            parts[batch] = outcomes
            # A shard is written in one piece, once all of it is there: what a killed run leaves is whole or missing.
            if len(parts) == len(shards[number]):
                folder.write(number, encode([outcome for key in sorted(parts) for outcome in parts[key]]))
                del gathered[number]
            done += sizes[batch]
            progress(done, total)
    return [folder.path(number) for number in range(len(shards))], len(shards) - len(missing)


def process_count(*, weights_bytes: int = 0, cores: int | None = None, free_bytes: int | None = None) -> int:
    """The number of processes that cores and free memory allow, at least one.

    weights_bytes: of the model that each process loads. cores, free_bytes: of this machine by default; its cores are
    those that this process may use, as a batch system allots them.
    """
    cores = cores if cores is not None else len(os.sched_getaffinity(0))
    free_bytes = free_bytes if free_bytes is not None else _free_memory()
    each = BYTES_OF_PROCESS + WEIGHTS_FACTOR * weights_bytes
    return max(1, min(cores, int(free_bytes / each)))


def _free_memory() -> int:
    """Bytes that new processes may take (MemAvailable); where the system does not tell, what it has in all."""
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
