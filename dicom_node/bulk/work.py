"""The work of a long job, and the protocol of what maps it over the items."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from dicom_node.errors import NodeError

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
Outcome = TypeVar("Outcome")


class BulkError(NodeError):
    """A long job cannot go on; its finished shards stay, and the same command continues from them."""


class Work(ABC, Generic[Item, Prepared, Outcome]):
    """The two halves of a job: reading, which needs a core, and answering, which needs the model.

    Objects are sent to other processes and machines, so they hold plain values; what is large is made by the two
    `open_` methods, once in each process. A batch is always read and answered as a whole, and the batches of a run are
    the same wherever it runs: a network may answer in other last digits where other images lie beside one.
    """

    @abstractmethod
    def open_reader(self) -> Callable[[Sequence[Item]], Prepared]:
        """Make what reads a batch. It raises BulkError where the whole job has to stop."""

    @abstractmethod
    def open_answerer(self) -> Callable[[Prepared], list[Outcome]]:
        """Make what answers a batch that was read: the outcomes of its items, in their order."""

    @abstractmethod
    def lost(self, item: Item, why: str) -> list[Outcome]:
        """Make the outcomes of an item at which a process died, or which took too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[Item]):
    """Items that are read and answered together. number: among all batches of the run."""

    number: int
    items: tuple[Item, ...]


class Mapper(Protocol):
    """Maps work over batches: on this machine, or on a cluster. `close` it at the end."""

    def map(self, work: Work[Any, Any, Any], batches: Iterable[Batch[Any]]) -> Iterator[tuple[int, list[Any]]]:
        """Yield the number and the outcomes of each batch, in any order. Raises BulkError."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class DirectMapper:
    """Maps work in this very process: for so few items that starting another one would take longer."""

    def map(self, work: Work[Any, Any, Any], batches: Iterable[Batch[Any]]) -> Iterator[tuple[int, list[Any]]]:
        """Yield the number and the outcomes of each batch, in their order. Raises BulkError."""
        read, answer = work.open_reader(), work.open_answerer()
        for batch in batches:
            yield batch.number, answer(read(batch.items))

    def close(self) -> None:
        """Nothing is held."""
