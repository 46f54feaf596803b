"""Backup while the node runs, and its return: older index over newer files, the reverse, a kill in the middle."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from dicom_node.admin import backup as backups
from dicom_node.admin.backup import back_up, restore
from dicom_node.context import utc_now
from dicom_node.errors import NodeError, UsageError
from dicom_node.receive.recovery import recover
from tests.support.receiver import RunningNode, radiograph, running_node, send, settings_for


def uids(node: RunningNode) -> set[str]:
    return {row.sop_instance_uid for row in node.instances()}


def test_backup_of_a_running_node_holds_what_is_in_the_wal(tmp_path: Path) -> None:
    films = [radiograph() for _ in range(3)]
    with running_node(tmp_path / "node") as node:
        assert send(node, *films) == [0, 0, 0]
        first = back_up(node.settings, tmp_path / "backup")
        assert send(node, radiograph()) == [0]
        second = back_up(node.settings, tmp_path / "backup")
    assert (first.copied, second.copied, second.there) == (3, 1, 3)
    with sqlite3.connect(tmp_path / "backup" / "index.db") as copy:
        assert copy.execute("SELECT COUNT(*) FROM instance").fetchone() == (4,)


def test_restored_into_an_empty_folder_everything_is_there(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node:
        send(node, radiograph(), radiograph())
        back_up(node.settings, tmp_path / "backup")
        held = uids(node)
    restore(settings_for(tmp_path / "new"), tmp_path / "backup", now=utc_now())
    with running_node(tmp_path / "new") as again:
        assert uids(again) == held
        assert len(again.files()) == 2


def test_older_index_over_newer_files_loses_nothing(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node:
        send(node, radiograph())
        back_up(node.settings, tmp_path / "backup")
        send(node, radiograph(), radiograph())
        held = uids(node)
    restore(settings_for(tmp_path / "node"), tmp_path / "backup", now=utc_now())
    with running_node(tmp_path / "node") as again:  # the receiver recovers at its start
        assert uids(again) == held
    assert list((tmp_path / "node").glob("index.db.before-*")), "the index that was there is set aside, not lost"


def test_newer_index_over_older_files_names_what_is_missing(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node:
        send(node, radiograph(), radiograph())
        back_up(node.settings, tmp_path / "backup")
        lost = node.instances()[0]
        (tmp_path / "backup" / "instances" / lost.path).unlink()
    restore(settings_for(tmp_path / "new"), tmp_path / "backup", now=utc_now())
    with running_node(tmp_path / "new") as again:
        found = recover(again.database, again.store, clock=utc_now)
        assert found.missing == (lost.sop_instance_uid,)


def test_backup_that_was_killed_in_the_middle_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = backups._name_durably, []

    def dies_at_the_second_file(part: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 3:  # the index, one file, and then no more
            raise OSError("killed")
        real(part, target)

    with running_node(tmp_path / "node") as node:
        send(node, radiograph(), radiograph(), radiograph())
        monkeypatch.setattr(backups, "_name_durably", dies_at_the_second_file)
        with pytest.raises(NodeError, match="run the command again"):
            back_up(node.settings, tmp_path / "backup")
        monkeypatch.undo()
        again = back_up(node.settings, tmp_path / "backup")
    assert (again.copied, again.there) == (2, 1)


def test_secret_that_was_changed_since_the_last_backup_is_copied_again(tmp_path: Path) -> None:
    """Of the same length: by that alone it would look like the one that was copied."""
    settings = settings_for(tmp_path / "node")
    with running_node(tmp_path / "node"):
        secret = settings.node.data_dir / "web-secret"
        secret.write_bytes(b"a" * 32)
        os.utime(secret, (1_700_000_000, 1_700_000_000))
        back_up(settings, tmp_path / "backup")
        assert back_up(settings, tmp_path / "backup").copied == 0
        secret.write_bytes(b"b" * 32)
        assert back_up(settings, tmp_path / "backup").copied == 1
    assert (tmp_path / "backup" / "web-secret").read_bytes() == b"b" * 32


def test_restore_that_is_killed_while_the_index_is_set_aside_leaves_a_node_with_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_node(tmp_path / "node") as node:
        send(node, radiograph())
        back_up(node.settings, tmp_path / "backup")
        held = uids(node)

    def dies(part: Path, target: Path) -> None:
        raise OSError("killed")

    monkeypatch.setattr(backups, "_name_durably", dies)
    with pytest.raises(NodeError, match="run the command again"):
        restore(settings_for(tmp_path / "node"), tmp_path / "backup", now=utc_now())
    with running_node(tmp_path / "node") as again:
        assert uids(again) == held
        assert not again.quarantined()


def test_file_that_a_damaged_disk_cut_off_comes_back_and_is_set_aside(tmp_path: Path) -> None:
    with running_node(tmp_path / "node") as node:
        send(node, radiograph())
        back_up(node.settings, tmp_path / "backup")
        (row,) = node.instances()
        stored, whole = node.store.path(row.path), node.store.read(row.path)
    stored.write_bytes(whole[:300])
    now = utc_now()
    done = restore(settings_for(tmp_path / "node"), tmp_path / "backup", now=now)
    assert (done.copied, stored.read_bytes()) == (1, whole)
    (cut,) = (path for path in (tmp_path / "node" / f"files.before-{now:%Y%m%dT%H%M%S}").rglob("*.dcm"))
    assert cut.read_bytes() == whole[:300]


def test_restore_onto_a_full_disk_goes_on_when_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_node(tmp_path / "node") as node:
        send(node, radiograph(), radiograph(), radiograph())
        back_up(node.settings, tmp_path / "backup")
        held = uids(node)
    settings, real, calls = settings_for(tmp_path / "new"), shutil.copy2, list[Path]()

    def fills_the_disk(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            target.write_bytes(source.read_bytes()[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(shutil, "copy2", fills_the_disk)
    with pytest.raises(NodeError, match="No space left on device; run the command again and it continues"):
        restore(settings, tmp_path / "backup", now=utc_now())
    monkeypatch.undo()
    assert not (tmp_path / "new" / "index.db").exists(), "the index comes last"
    done = restore(settings, tmp_path / "backup", now=utc_now())
    assert (done.copied, done.there) == (2, 1)
    with running_node(tmp_path / "new") as again:
        assert uids(again) == held


def test_backup_into_what_is_no_folder_is_refused_without_the_advice_to_run_it_again(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file of somebody", encoding="utf-8")
    with pytest.raises(UsageError, match=r"taken: no folder for a backup can be made there: File exists$"):
        back_up(settings_for(tmp_path / "node"), taken)
    assert taken.read_text(encoding="utf-8") == "a file of somebody"


def test_folder_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no backup"):
        restore(settings_for(tmp_path / "new"), tmp_path, now=utc_now())
    settings = settings_for(tmp_path / "node")
    with pytest.raises(UsageError, match="outside"):
        back_up(settings, tmp_path / "node" / "backup")


def test_recovery_deletes_neither_what_is_unreadable_nor_what_contradicts(tmp_path: Path) -> None:
    film = radiograph()
    other = radiograph(
        SOPInstanceUID=film.SOPInstanceUID,
        StudyInstanceUID=film.StudyInstanceUID,
        SeriesInstanceUID=film.SeriesInstanceUID,
        PixelData=bytes(128),
    )
    with running_node(tmp_path / "other") as elsewhere:
        send(elsewhere, other)
        sent_again = elsewhere.store.read(elsewhere.instances()[0].path)
    with running_node(tmp_path / "node") as node:
        send(node, film)
        (row,) = node.instances()
        folder = node.store.path(row.path).parent
        contradicting, unreadable = folder / f"{folder.name}{'a' * 30}.dcm", folder / f"{folder.name}{'b' * 30}.dcm"
        contradicting.write_bytes(sent_again)
        unreadable.mkdir()  # whoever reads it gets an error of the file system, whatever the rights
        found = recover(node.database, node.store, clock=utc_now)
        assert (found.set_apart, found.unreadable, found.surplus_removed) == (1, 1, 0)
        (kept,) = node.quarantined()
        assert node.store.read(kept.path) == sent_again
        assert unreadable.exists()
        unreadable.rmdir()
