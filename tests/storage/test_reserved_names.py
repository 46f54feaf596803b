"""Reserved names: a process that is killed before any of its calls, and a power cut then, lose nothing acknowledged."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from dicom_node.dicom.part10 import FileMeta
from dicom_node.errors import StorageError
from dicom_node.storage.folder_store import FolderStore
from dicom_node.storage.instance_store import hash_stored_file
from dicom_node.storage.reserved_names import NAMES_AT_ONCE

META = FileMeta(sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid=ExplicitVRLittleEndian)
DATA = bytes(range(256)) * 64
CALLS = ("open", "write", "fsync", "link", "truncate", "close")


def receiving(root: Path) -> FolderStore:
    store = FolderStore(root)
    store.expect_many()
    return store


def put(store: FolderStore, data: bytes = DATA) -> str:
    return store.put(data, META).path


def reserved(root: Path) -> list[Path]:
    return list((root / "incoming").rglob("*.reserved"))


def nothing_known(_names: list[str]) -> Collection[str]:
    return ()


def live_until_killed(root: Path, acknowledged: Path, before: int) -> bool:
    """Store files in a child that dies before its `before`-th system call on files; False where it came to its end.

    Each path is written to `acknowledged` once its file is durable, as the index gets its row.
    """
    child = os.fork()
    if not child:
        try:
            die_before(before)
            store = receiving(root)
            for number in range(2):
                with store.begin(META) as dropped:
                    dropped.write(DATA[: 1000 + number])
                path = put(store)
                with acknowledged.open("a") as index:
                    index.write(f"{path}\n")
            store.close()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def die_before(count: int) -> None:
    """Let this process be killed before its `count`-th call."""
    left = [count]

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted

    for name in CALLS:
        setattr(os, name, counting(getattr(os, name)))


def cut_power(root: Path) -> None:
    """The worst that a power cut may do: no lasting name is on the disk whose first name is still there."""
    for path in reserved(root):
        (root / "files" / path.stem[:2] / f"{path.stem}.dcm").unlink(missing_ok=True)


@pytest.mark.parametrize("loses_power", [False, True], ids=["killed", "power cut"])
def test_nothing_acknowledged_is_lost_whenever_the_process_dies(tmp_path: Path, loses_power: bool) -> None:
    root, index = tmp_path / "instances", tmp_path / "index"
    index.touch()
    FolderStore(root).put(DATA, META)
    old, before = set(FolderStore(root).iterate_paths()), 0
    while live_until_killed(root, index, before):
        if loses_power:
            cut_power(root)
        rows = set(index.read_text().split())
        again = FolderStore(root)
        again.remove_orphans(lambda names: rows & set(names))  # noqa: B023 (called at once)
        assert rows <= set(again.iterate_paths()), before
        assert reserved(root) == [], before
        for path in set(again.iterate_paths()) - old:
            with again.open(path) as stream:
                assert hash_stored_file(stream, path)[1].size_bytes == len(DATA), "each file that has a name is whole"
        before += 1 if before < 12 or before > 2 * NAMES_AT_ONCE - 4 else 8  # one new name is made like the other
    assert before > 2 * NAMES_AT_ONCE, "the calls were counted"
    assert len(index.read_text().split()) > 2


def test_names_are_on_the_disk_before_they_are_needed_and_go_after_the_lasting_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, str]] = []

    def watch(call: str, place: Callable[[Any], str], at: int = 0) -> None:
        passed_on = getattr(os, call)

        def watched(*arguments: Any, **named: Any) -> Any:
            said.append((call, place(arguments[at])))
            return passed_on(*arguments, **named)

        monkeypatch.setattr(os, call, watched)

    watch("fsync", lambda descriptor: str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    watch("write", lambda descriptor: str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    watch("link", str, at=1)
    watch("unlink", str)
    store = receiving(tmp_path)
    path = str(tmp_path / put(store))
    (first,) = (name for name in reserved(tmp_path) if name.stat().st_size)
    store.close()
    expected = [
        ("fsync", str(first.parent)),
        ("write", str(first)),
        ("fsync", str(first)),
        ("link", path),
        ("fsync", str(Path(path).parent)),
        ("unlink", str(first)),
    ]
    places = [said.index(step) for step in expected]
    assert places == sorted(places), said
    assert Path(path).is_file()


def test_a_file_waits_for_one_sync_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = receiving(tmp_path)
    put(store)
    synced: list[int] = []
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        synced.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    for _ in range(NAMES_AT_ONCE):
        put(store)
    assert len(synced) == NAMES_AT_ONCE + 2, "the spool's folder and the files' own, once for all of them"
    store.close()


def test_the_name_of_a_dropped_file_is_used_again_and_leaves_nothing_behind(tmp_path: Path) -> None:
    store = receiving(tmp_path)
    for _ in range(3 * NAMES_AT_ONCE):
        with store.begin(META) as dropped:
            dropped.write(DATA)
    assert len(reserved(tmp_path)) == NAMES_AT_ONCE
    assert {path.stat().st_size for path in reserved(tmp_path)} == {0}
    path = put(store, b"short")
    assert store.read_data_set(path) == b"short", "no byte of what was dropped before it"
    store.close()
    assert reserved(tmp_path) == []
    assert list(store.iterate_paths()) == [path]


def test_a_deleted_and_a_quarantined_file_keep_no_second_name(tmp_path: Path) -> None:
    store = receiving(tmp_path)
    deleted, apart = put(store), put(store)
    store.delete(deleted)
    store.quarantine(apart)
    assert [path for path in reserved(tmp_path) if path.stat().st_size] == []
    store.close()


def test_a_living_receiver_keeps_its_names(tmp_path: Path) -> None:
    store = receiving(tmp_path)
    with store.begin(META) as incoming:
        incoming.write(DATA)
        assert FolderStore(tmp_path).remove_orphans(nothing_known) == 0
        path = incoming.commit().path
    assert store.read_data_set(path) == DATA
    store.close()


def test_a_lasting_name_that_cannot_be_given_leaves_no_file(tmp_path: Path) -> None:
    store = receiving(tmp_path)
    with store.begin(META) as incoming:
        incoming.write(DATA)
        (first,) = (name for name in reserved(tmp_path) if name.stat().st_size)
        first.unlink()  # behind the node's back
        with pytest.raises(StorageError):
            incoming.commit()
    assert list(store.iterate_paths()) == []
    assert store.read_data_set(put(store)) == DATA
    store.close()


def test_a_file_system_without_links_takes_files_by_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    store = receiving(tmp_path)
    monkeypatch.setattr(os, "link", refuse)  # as exFAT does
    paths = [put(store, generate_uid().encode()) for _ in range(3)]
    assert sorted(store.iterate_paths()) == sorted(paths)
    store.close()
    assert reserved(tmp_path) == []
