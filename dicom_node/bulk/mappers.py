"""The choice of a mapper: a cluster where one is named, else the processes of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicom_node.bulk.processes import ProcessMapper
from dicom_node.bulk.ray_cluster import RayMapper
from dicom_node.bulk.run import process_count
from dicom_node.bulk.work import Mapper


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a long job runs. ray: address of a cluster, "" for this machine. processes: 0: by cores and memory.
    answerers: actors with a model; 0: by the cluster."""

    ray: str = ""
    processes: int = 0
    answerers: int = 0


@contextmanager
def open_mapper(
    placement: Placement, *, batches: int, item_seconds: float, is_on_gpu: bool = False, weights: Path | None = None
) -> Iterator[Mapper]:
    """Open what maps `batches` batches, and close it at the end.

    item_seconds: an item that takes longer is lost (on this machine). is_on_gpu: each process takes a GPU, so one is
    started unless more are asked for. weights: folder of the checkpoint that each process loads.
    """
    mapper: Mapper
    if placement.ray:
        gpus = 1.0 if is_on_gpu else 0.0
        mapper = RayMapper(address=placement.ray, answerers=placement.answerers, gpus=gpus)
    else:
        count = placement.processes or (1 if is_on_gpu else process_count(weights_bytes=_size_of(weights)))
        mapper = ProcessMapper(count=max(1, min(count, batches)), item_seconds=item_seconds)
    try:
        yield mapper
    finally:
        mapper.close()


def _size_of(weights: Path | None) -> int:
    """Bytes of the checkpoint in a folder; 0 where it is not on this disk."""
    if weights is None or not weights.is_dir():
        return 0
    return sum(path.stat().st_size for path in weights.glob("*.safetensors"))
