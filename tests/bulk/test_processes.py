"""Work over processes: in order, whatever dies or hangs, and never done twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dicom_node.bulk.processes import ProcessMapper
from dicom_node.bulk.run import ShardSizes, process_count, run_shards
from dicom_node.bulk.shards import ShardFolder
from dicom_node.bulk.work import Batch, BulkError, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Squares(Work[int, list[int], str]):
    """Squares numbers; some kill or hang the process, or stop the whole job."""

    deadly: int = -1
    endless: int = -1
    fatal: int = -1
    journal: Path | None = None

    def open_reader(self) -> Callable[[Sequence[int]], list[int]]:
        return list

    def open_answerer(self) -> Callable[[list[int]], list[str]]:
        return lambda numbers: [self._square(number) for number in numbers]

    def lost(self, item: int, why: str) -> list[str]:
        return [f"{item} lost: {why}"]

    def _square(self, number: int) -> str:
        if number == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.endless:
            signal.pause()
        if number == self.fatal:
            raise BulkError("the disk is gone")
        if self.journal is not None:
            with self.journal.open("a") as file:
                file.write(f"{number}\n")
        return f"{number * number}"


def _encode(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _folder(folder: Path, **facts: str) -> ShardFolder:
    return ShardFolder(folder=folder, suffix=".txt", facts={"numbers": "10", **facts})


CUT = ShardSizes(batch=2, shard=2)


def test_an_item_that_kills_its_process_costs_itself_and_another_that_hangs_too(tmp_path: Path) -> None:
    work = Squares(deadly=3, endless=6)
    mapper = ProcessMapper(count=2, item_seconds=1.0)
    try:
        paths, kept = run_shards(work, range(10), _folder(tmp_path), mapper, cut=CUT, encode=_encode)
    finally:
        mapper.close()
    lines = "".join(path.read_text() for path in paths).splitlines()
    lost = {3: "3 lost: the process died of it (signal 9)", 6: "6 lost: it took longer than 1 s"}
    assert lines == [lost.get(number, str(number * number)) for number in range(10)]
    assert kept == 0
    assert [path.name for path in paths] == ["part-000000.txt", "part-000001.txt", "part-000002.txt"]


def test_what_stops_the_job_leaves_finished_shards_that_are_not_done_again(tmp_path: Path) -> None:
    journal, out = tmp_path / "journal", tmp_path / "out"
    mapper = ProcessMapper(count=1, item_seconds=60.0)
    with pytest.raises(BulkError, match="the disk is gone"):
        run_shards(Squares(fatal=9, journal=journal), range(10), _folder(out), mapper, cut=CUT, encode=_encode)
    (out / "_part-000002.txt.unfinished").write_text("half a shard")
    seen: list[tuple[int, int]] = []
    paths, kept = run_shards(
        Squares(journal=journal),
        range(10),
        _folder(out),
        mapper,
        cut=CUT,
        encode=_encode,
        progress=lambda done, total: seen.append((done, total)),
    )
    mapper.close()
    assert kept == 2
    assert seen[0] == (0, 2)
    assert seen[-1] == (2, 2)
    assert [path.read_text() for path in paths] == ["0\n1\n4\n9\n", "16\n25\n36\n49\n", "64\n81\n"]
    done = [int(line) for line in journal.read_text().splitlines()]
    assert [number for number in done if number < 8] == list(range(8))
    assert not list(out.glob("*.unfinished"))


def test_a_folder_of_another_run_or_in_use_is_refused(tmp_path: Path) -> None:
    with _folder(tmp_path, model="a").lock(), pytest.raises(BulkError, match="another process works here"):
        _folder(tmp_path, model="a").lock().__enter__()
    with pytest.raises(BulkError, match="model was 'a' and is 'b'"):
        _folder(tmp_path, model="b").lock().__enter__()
    (tmp_path / "part-000000.txt").write_text("")
    (tmp_path / "_plan.json").unlink()
    with pytest.raises(BulkError, match="of an unknown run"):
        _folder(tmp_path, model="a").lock().__enter__()


def test_processes_are_kept_for_the_next_work(tmp_path: Path) -> None:
    mapper = ProcessMapper(count=1, item_seconds=60.0)
    batches = [Batch(number=0, items=(2, 3))]
    try:
        assert list(mapper.map(Pids(), batches)) == list(mapper.map(Pids(), batches))
        assert list(mapper.map(Squares(), batches)) == [(0, ["4", "9"])]
    finally:
        mapper.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pids(Squares):
    """Answers with the process that it runs in."""

    def open_answerer(self) -> Callable[[list[int]], list[str]]:
        return lambda numbers: [str(os.getpid()) for _ in numbers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unopened(Squares):
    """Work whose processes cannot start."""

    def open_answerer(self) -> Callable[[list[int]], list[str]]:
        os._exit(3)


def test_processes_that_cannot_start_stop_the_job() -> None:
    with pytest.raises(BulkError, match=r"ended while it started \(exit status 3\)"):
        list(ProcessMapper(count=2, item_seconds=5.0).map(Unopened(), [Batch(number=0, items=(1,))]))


def test_processes_are_counted_by_cores_and_memory() -> None:
    gigabyte = 10**9
    assert process_count(cores=16, free_bytes=64 * gigabyte) == 16
    assert process_count(cores=16, free_bytes=64 * gigabyte, weights_bytes=8 * gigabyte) == 3
    assert process_count(cores=2, free_bytes=gigabyte // 2) == 1
