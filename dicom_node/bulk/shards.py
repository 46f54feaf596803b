"""A folder of finished shards, which is all the state of a long job: what lies there is done, and is never done again.

A shard appears under its name in one step, whole and on the disk (temp → write → fsync → rename → fsync of the
folder). `_plan.json` says which run the folder belongs to; another run is refused, for shards of two models or two
lists of inputs must not lie side by side. Names that begin with "_" are passed over by readers of Parquet folders.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicom_node.bulk.work import BulkError
from dicom_node.storage.spool import fsync_folder
from dicom_node.system.file_lock import FileLock

PLAN: Final = "_plan.json"
LOCK: Final = "_lock"
_UNFINISHED: Final = ".unfinished"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFolder:
    """Where the shards of one run lie.

    suffix: of their names, ".parquet" for example. facts: what makes two runs the same: inputs, model, versions; plain
    text, shown where they differ.
    """

    folder: Path
    suffix: str
    facts: Mapping[str, str]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder this run's own for the block. Raises BulkError where it is another's, or in use."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock.try_acquire(self.folder / LOCK)
        if lock is None:
            raise BulkError(f"{self.folder}: another process works here; wait for its end, or name another folder")
        with lock:
            self._check_plan()
            for left in self.folder.glob(f"*{_UNFINISHED}"):
                left.unlink()
            yield

    def path(self, number: int) -> Path:
        """Where a shard lies once it is finished."""
        return self.folder / f"part-{number:06d}{self.suffix}"

    def is_finished(self, number: int) -> bool:
        """Tell whether a shard is done."""
        return self.path(number).is_file()

    def write(self, number: int, content: bytes) -> None:
        """Let a finished shard appear. Raises OSError."""
        self._put(self.path(number), content)

    def _put(self, target: Path, content: bytes) -> None:
        partial = target.with_name(f"_{target.name}{_UNFINISHED}")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        fsync_folder(self.folder)

    def _check_plan(self) -> None:
        plan = self.folder / PLAN
        if not plan.exists():
            # Parts without a plan: which run they are of cannot be known, so they are neither reused nor overwritten.
            taken = sorted(path.name for path in self.folder.glob(f"part-*{self.suffix}"))
            if taken:
                raise BulkError(
                    f"{self.folder} holds {taken[0]} of an unknown run ({PLAN} is gone); name another folder"
                )
            self._put(plan, json.dumps(dict(self.facts), indent=1, sort_keys=True).encode() + b"\n")
            return
        try:
            known = json.loads(plan.read_text("utf-8"))
        except ValueError as error:
            raise BulkError(f"{plan} cannot be read ({error}); name another folder") from error
        # Other inputs or another model would be mixed with what is there; the message names each difference.
        if known != dict(self.facts):
            names = sorted(name for name in {*known, *self.facts} if known.get(name) != self.facts.get(name))
            what = "; ".join(f"{name} was {known.get(name)!r} and is {self.facts.get(name)!r}" for name in names)
            raise BulkError(f"{self.folder} belongs to another run: {what}. Name another folder, or remove this one")


def digest_of(lines: Iterator[str]) -> str:
    """A short name for a list of lines, such as a run's inputs."""
    digest, count = hashlib.sha256(), 0
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
        count += 1
    return f"{count} ({digest.hexdigest()[:16]})"
