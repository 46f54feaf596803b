"""Work mapped over a Ray cluster by Ray Data: actors on processors read, actors beside the model answer.

Every machine of the cluster needs this version of dicom-node, and must see the inputs under the same paths. Ray starts
again what dies with a machine; an item that kills its actor each time stops the run, and the finished shards stay.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from dicom_node.bulk.work import Batch, BulkError, Work
from dicom_node.errors import UsageError

HERE: Final = "local"
"""An address: a cluster of this machine alone, for the time of the run."""
MAX_BLOCKS: Final = 10_000
_NUMBER, _VALUE = "number", "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class RayMapper:
    """Maps work over a cluster.

    address: as `ray.init` takes it, or HERE. answerers: actors that answer; 0: as many as the cluster has GPUs, or half
    its processors. gpus: of each actor that answers.
    """

    address: str
    answerers: int = 0
    gpus: float = 0.0

    def map(self, work: Work[Any, Any, Any], batches: Iterable[Batch[Any]]) -> Iterator[tuple[int, list[Any]]]:
        """Yield the number and the outcomes of each batch, in any order. Raises BulkError."""
        rows = [{_NUMBER: batch.number, _VALUE: pickle.dumps(batch.items)} for batch in batches]
        if not rows:
            return
        ray = connect(self.address)
        answerers = self.answerers or self._fitting(ray)
        given = pickle.dumps(work)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        try:
            read = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map(
                _Reading,
                fn_constructor_args=(given,),
                # Readers take what processors the answerers leave, down to one.
                concurrency=(1, max(1, _processors(ray) - answerers)),
                num_cpus=1,
            )
            answered = read.map(
                _Answering,
                fn_constructor_args=(given,),
                concurrency=answerers,
                num_cpus=0 if self.gpus else 1,
                num_gpus=self.gpus or None,
            )
            for row in answered.iter_rows():
                yield int(row[_NUMBER]), pickle.loads(row[_VALUE])
        except ray.exceptions.RayError as error:
            raise BulkError(f"the Ray cluster {self.address} stopped: {_last_line(error)}") from error

    def close(self) -> None:
        """The cluster is let go with this process; its actors ended with their work."""

    def _fitting(self, ray: Any) -> int:
        if self.gpus:
            return max(1, int(ray.cluster_resources().get("GPU", 0) / self.gpus))
        return max(1, _processors(ray) // 2)


def connect(address: str) -> Any:
    """Join the cluster and see that it runs this version; returns the module `ray`. Raises UsageError, BulkError."""
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise UsageError('--ray needs the extra: pip install "dicom-node[ray]"') from error
    if not ray.is_initialized():
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                include_dashboard=False if address == HERE else None,
            )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise BulkError(
                f"--ray {address}: no cluster answers ({error}); allowed: HOST:PORT, auto, {HERE}"
            ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    own = version_here()
    try:
        # The workers unpickle our classes: another version there would fail later and worse, or answer otherwise.
        other = ray.get(ray.remote(version_here).remote())
    except ray.exceptions.RayError as error:
        raise BulkError(f"the Ray cluster {address} does not run dicom-node: {_last_line(error)}") from error
    if other != own:
        raise BulkError(f"the Ray cluster {address} runs dicom-node {other}, this is {own}; install one version")
    return ray


def version_here() -> str:
    """The version of dicom-node where this runs."""
    return metadata.version("dicom-node")


class _Reading:
    """An actor that reads batches."""

    def __init__(self, work: bytes) -> None:
        self._read = pickle.loads(work).open_reader()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {_NUMBER: row[_NUMBER], _VALUE: pickle.dumps(self._read(pickle.loads(row[_VALUE])))}


class _Answering:
    """An actor that answers batches that were read."""

    def __init__(self, work: bytes) -> None:
        self._answer = pickle.loads(work).open_answerer()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {_NUMBER: row[_NUMBER], _VALUE: pickle.dumps(self._answer(pickle.loads(row[_VALUE])))}


def _processors(ray: Any) -> int:
    return int(ray.cluster_resources().get("CPU", 1))


def _last_line(error: Exception) -> str:
    """Of an error that carries the traceback of another machine, the line that says what it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
