"""The object store: one conditional PUT before Success, outages told to the sender, a cache that keeps paths."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from sqlalchemy import delete

from dicom_node.admin.store_migration import Migrated, MigratedInstances, files_to_copy, migrate
from dicom_node.cli.doctor.machine_checks import Grade
from dicom_node.cli.doctor.storage_check import object_store
from dicom_node.config import NodeSection, Settings, StorageSection
from dicom_node.context import NodeContext
from dicom_node.dicom.part10 import FileMeta
from dicom_node.errors import ConfigurationError, StorageError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Instance
from dicom_node.receive.recovery import recover
from dicom_node.receive.storage_commitment import verdict
from dicom_node.retention import removal
from dicom_node.retention.disk import Usage
from dicom_node.storage import object_store as object_store_module
from dicom_node.storage.bucket import Bucket
from dicom_node.storage.file_cache import FileCache
from dicom_node.storage.folder_store import FolderStore
from dicom_node.storage.instance_store import StoreUnavailableError
from dicom_node.storage.object_store import ObjectStore
from dicom_node.storage.opening import open_documents, open_store
from tests.support.archives import data_set_bytes
from tests.support.archives import receive as take
from tests.support.databases import add_tables
from tests.support.object_store import KEY, SECRET, S3Server
from tests.support.receiver import CR, radiograph, running_node, send
from tests.support.tcp_proxy import Wire, tcp_proxy

META = FileMeta(sop_class_uid=CR, sop_instance_uid="1.2.3", transfer_syntax_uid="1.2.840.10008.1.2.1")
CONTENT = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192" + bytes(5000)
OUT_OF_RESOURCES = 0xA700


def settings_at(folder: Path, storage: StorageSection) -> Settings:
    return Settings(node=NodeSection(data_dir=folder), storage=storage)


@pytest.fixture
def section(s3_server: S3Server, tmp_path: Path) -> StorageSection:
    return s3_server.new_bucket(tmp_path)


@pytest.fixture
def store(section: StorageSection, tmp_path: Path) -> Iterator[ObjectStore]:
    made = ObjectStore(
        Bucket(section), spool=tmp_path / "spool", cache=FileCache(tmp_path / "cache", max_bytes=1 << 20)
    )
    yield made
    made.close()


@pytest.fixture
def node(section: StorageSection, tmp_path: Path) -> Iterator[NodeContext]:
    """A node on SQLite whose instances lie in a folder, and whose configuration names a bucket beside it."""
    database = Database(f"sqlite:///{tmp_path}/index.db")
    add_tables(database)
    folder = section.model_copy(update={"kind": "folder"})
    settings = settings_at(tmp_path, folder)
    yield NodeContext(settings=settings, database=database, store=open_store(settings))
    database.close()


def test_what_was_put_is_read_back_from_the_bucket_alone(store: ObjectStore) -> None:
    stored = store.put(CONTENT, META)
    assert stored.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert not list(store.cache.folder.parent.rglob("*.part")), "nothing stays in the spool"
    store.cache.drop(stored.path)
    assert store.read_data_set(stored.path) == CONTENT
    moved = store.quarantine(stored.path)
    assert not store.has(stored.path)
    assert store.read_data_set(moved) == CONTENT
    store.delete(moved)
    store.delete(moved)
    assert not store.has(moved)
    assert not store.path(moved).exists()


def test_a_put_whose_answer_was_lost_stores_once(section: StorageSection, s3_server: S3Server, tmp_path: Path) -> None:
    with tcp_proxy(s3_server.port) as wire:
        slow = section.model_copy(update={"endpoint": f"http://127.0.0.1:{wire.port}", "request_seconds": 1.0})
        store = ObjectStore(Bucket(slow), spool=tmp_path / "spool", cache=FileCache(tmp_path / "c", max_bytes=1 << 20))
        original = store.bucket.put_new

        def lose_the_first_answer(key: str, content: Path | bytes, attributes: Mapping[str, str]) -> bool:
            wire.state = Wire.DEAF if not wire.swallowed else Wire.WHOLE
            return original(key, content, attributes)

        store.bucket.put_new = lose_the_first_answer  # type: ignore[method-assign]
        stored = store.put(CONTENT, META)
        assert wire.swallowed, "the first answer was lost"
        store.bucket.put_new = original  # type: ignore[method-assign]
        assert [key for key, _time in store.bucket.list("files")] == [stored.path]
        store.cache.drop(stored.path)
        assert store.read_data_set(stored.path) == CONTENT
        store.close()


def test_a_name_that_is_taken_by_other_bytes_is_never_overwritten(store: ObjectStore, tmp_path: Path) -> None:
    stored = store.put(CONTENT, META)
    other = tmp_path / "other"
    other.write_bytes(b"other bytes")
    with pytest.raises(StorageError, match="another object has the name"):
        object_store_module.put_instance(store.bucket, other, stored.path, hashlib.sha256(b"other bytes").hexdigest())
    store.cache.drop(stored.path)
    assert store.read_data_set(stored.path) == CONTENT


def test_an_outage_is_told_to_the_sender_and_passes(
    section: StorageSection, s3_server: S3Server, tmp_path: Path
) -> None:
    with tcp_proxy(s3_server.port) as wire:
        away = section.model_copy(update={"endpoint": f"http://127.0.0.1:{wire.port}", "request_seconds": 0.5})
        with running_node(tmp_path / "node", storage=away.model_dump()) as running:
            film = radiograph()
            wire.state = Wire.CUT
            assert send(running, film) == [OUT_OF_RESOURCES]
            assert running.instances() == []
            assert running.files() == [], "no spool that pretends"
            wire.state = Wire.WHOLE
            assert send(running, film) == [0]
            (row,) = running.instances()
            assert running.store.has(row.path)
            assert send(running, film) == [0], "a duplicate"
            assert [key for key, _time in Bucket(section).list("files")] == [row.path]


def test_a_service_that_is_away_is_said_without_its_secrets(section: StorageSection, tmp_path: Path) -> None:
    bucket = Bucket(section.model_copy(update={"endpoint": "http://127.0.0.1:1"}))
    with pytest.raises(StoreUnavailableError) as caught:
        bucket.has("files/aa/x")
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)
    empty = tmp_path / "empty"
    empty.write_text(f"[default]\naws_access_key_id = {KEY}\n")
    with pytest.raises(ConfigurationError, match="aws_secret_access_key") as refused:
        Bucket(section.model_copy(update={"credentials_file": empty}))
    assert KEY not in str(refused.value)


def test_a_damaged_object_is_refused_when_it_is_fetched(store: ObjectStore) -> None:
    stored = store.put(CONTENT, META)
    whole = store.read(stored.path)
    store.bucket.delete(stored.path)
    damaged = store.cache.folder / "damaged"
    damaged.write_bytes(whole[:-1] + b"X")
    store.bucket.put_new(stored.path, damaged, {object_store_module.SHA256: stored.sha256})
    store.cache.drop(stored.path)
    with pytest.raises(StorageError, match="damaged"):
        store.path(stored.path)


def test_the_cache_lets_the_longest_unused_go_and_readers_fetch_it_again(store: ObjectStore) -> None:
    first = store.put(CONTENT, META).path
    size = len(store.read(first))
    store.cache.drop(first)
    store.cache = FileCache(store.cache.folder, max_bytes=4 * size, kept_seconds=60, look_after=0)
    names = [store.put(CONTENT + bytes([number]), META).path for number in range(6)]
    assert all(store.cache.path(name).is_file() for name in names), "a path that was given out can still be opened"
    for age, name in enumerate(names):
        os.utime(store.cache.path(name), (0, 1000 + age))
    last = store.put(CONTENT, META).path
    kept = [name for name in [*names, last] if store.cache.path(name).is_file()]
    assert kept == [names[4], names[5], last]
    assert store.read_data_set(names[0]) == CONTENT + bytes([0])


def test_a_copy_of_an_earlier_start_of_the_machine_is_not_read(
    section: StorageSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are not fsynced: after a power cut one may have its name and not its bytes."""

    def opened() -> ObjectStore:
        cache = FileCache(tmp_path / "cache", max_bytes=1, kept_seconds=60, look_after=0)
        return ObjectStore(Bucket(section), spool=tmp_path / "spool", cache=cache)

    before = opened()
    name = before.put(CONTENT, META).path
    cut = before.cache.path(name)
    before.close()
    cut.parent.mkdir(parents=True, exist_ok=True)
    cut.write_bytes(b"\0" * 8)
    os.utime(cut, (0, 1000))
    monkeypatch.setattr("dicom_node.storage.file_cache.boot", lambda: "the next start")
    after = opened()
    assert after.read_data_set(name) == CONTENT
    after.put(CONTENT + b"X", META)
    assert not cut.exists(), "it makes room"
    after.close()


def test_recovery_takes_old_objects_without_a_row_and_leaves_young_ones(
    section: StorageSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    add_tables(database)
    settings = settings_at(tmp_path, section)
    node = NodeContext(settings=settings, database=database, store=open_store(settings))
    film = radiograph()
    take(node, film)
    with database.write() as session:
        session.execute(delete(Instance))
    assert recover(database, node.store, clock=node.clock).indexed == 0, "it may be a commit in progress"
    monkeypatch.setattr(ObjectStore, "settle_time", dt.timedelta(0))
    assert recover(database, node.store, clock=node.clock).indexed == 0, "once a day for all machines"
    monkeypatch.setattr(object_store_module, "RECOVER_EVERY", dt.timedelta(0))
    assert recover(database, node.store, clock=node.clock).indexed == 1
    with database.read() as session:
        (path,) = session.scalars(Instance.__table__.select().with_only_columns(Instance.path)).all()
    assert node.store.read_data_set(path) == data_set_bytes(film)
    database.close()


def test_documents_are_written_read_and_removed_in_the_bucket(section: StorageSection, tmp_path: Path) -> None:
    documents = open_documents(settings_at(tmp_path, section))
    documents.write("ab/result", {"reading.dcm": b"first", "report.json": b"{}"})
    documents.write("ab/result", {"reading.dcm": b"second", "report.json": b"{}"})
    documents.write("ab/result-2", {"reading.dcm": b"another"})
    assert documents.read("ab/result/reading.dcm") == b"second"
    documents.remove("ab/result")
    with pytest.raises(FileNotFoundError):
        documents.read("ab/result/reading.dcm")
    assert documents.read("ab/result-2/reading.dcm") == b"another"
    with pytest.raises(StorageError):
        documents.read("../files/aa/x")


def test_a_folder_moves_into_a_bucket_while_the_node_runs(node: NodeContext, section: StorageSection) -> None:
    films = [radiograph() for _ in range(4)]
    for film in films:
        take(node, film)
    node.documents.write("ab/result", {"reading.dcm": b"document"})
    first = Migrated()
    next(migrate(node, files_to_copy(node), first))  # a run that is cut off
    assert sum(first.counts.values()) == 1
    with node.database.write() as session:
        removed, damaged = session.query(Instance).order_by(Instance.path).limit(2)
        session.delete(removed)
        session.expunge(damaged)
    node.store.delete(removed.path)
    node.store.path(damaged.path).write_bytes(node.store.read(damaged.path)[:-1] + b"X")
    second = Migrated()
    list(migrate(node, files_to_copy(node), second))
    assert second.damaged == [damaged.path]
    assert second.counts[MigratedInstances.NEW] + second.counts[MigratedInstances.THERE] == 3
    take(node, late := radiograph())  # received between the last copy and the switch
    moved = settings_at(node.settings.node.data_dir, section)
    switched = NodeContext(settings=moved, database=node.database, store=open_store(moved))
    with node.database.read() as session:
        rows = {row.sop_instance_uid: row.path for row in session.query(Instance)}
    sent = {film.SOPInstanceUID: data_set_bytes(film) for film in [*films, late]}
    for uid, path in rows.items():
        if path != damaged.path:
            assert switched.store.read_data_set(path) == sent[uid]
    assert switched.documents.read("ab/result/reading.dcm") == b"document"
    third = Migrated()
    list(migrate(switched, files_to_copy(switched), third))
    assert third.counts[MigratedInstances.NEW] == 1
    keys = {key for key, _time in Bucket(section).list("files")}
    assert keys == set(rows.values()) - {damaged.path}, "what retention removed is not in the bucket"


def test_nothing_is_removed_from_the_bucket_where_the_folder_is_not_mounted(
    node: NodeContext, section: StorageSection
) -> None:
    take(node, radiograph())
    list(migrate(node, files_to_copy(node), Migrated()))
    folder = node.settings.node.data_dir / "instances"
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(StorageError, match="is it mounted"):
        list(migrate(node, files_to_copy(node), Migrated()))
    assert len(list(Bucket(section).list("files"))) == 1
    assert isinstance(node.store, FolderStore)


def test_the_doctor_finds_a_bucket_that_overwrites(section: StorageSection, tmp_path: Path) -> None:
    settings = settings_at(tmp_path, section)
    assert object_store(settings).grade is Grade.GOOD
    assert not list(Bucket(section).list("probe")), "the doctor leaves nothing"
    careless = ObjectStore(Bucket(section), spool=tmp_path / "s", cache=FileCache(tmp_path / "c", max_bytes=1))
    whole = careless.bucket

    def overwrite(key: str, content: Path | bytes, attributes: Mapping[str, str]) -> bool:
        return bool(whole.put(key, b"" if isinstance(content, Path) else content))

    whole.put_new = overwrite  # type: ignore[method-assign]
    with pytest.raises(StorageError, match="overwrites"):
        careless.probe()
    with pytest.raises(StoreUnavailableError):
        object_store(settings_at(tmp_path, section.model_copy(update={"bucket": "no-such-bucket"})))


def test_a_bucket_that_is_missing_is_an_outage_and_no_missing_file(store: ObjectStore, section: StorageSection) -> None:
    stored = store.put(CONTENT, META)
    store.cache.drop(stored.path)
    store.bucket = Bucket(section.model_copy(update={"bucket": "no-such-bucket"}))
    for ask in (store.has, store.path, store.delete, store.quarantine):
        with pytest.raises(StoreUnavailableError):
            ask(stored.path)
    assert not Bucket(section).has("files/aa/never")


def test_an_outage_is_no_proof_of_loss_in_storage_commitment(
    store: ObjectStore, section: StorageSection, tmp_path: Path
) -> None:
    database = Database(f"sqlite:///{tmp_path}/index.db")
    add_tables(database)
    film = radiograph()
    take(NodeContext(settings=settings_at(tmp_path, section), database=database, store=store), film)
    asked = [[film.SOPClassUID, film.SOPInstanceUID]]
    with database.read() as session:
        assert not verdict(session, store, asked).failed
        store.bucket = Bucket(section.model_copy(update={"endpoint": "http://127.0.0.1:1"}))
        with pytest.raises(StoreUnavailableError):
            verdict(session, store, asked)
    database.close()


def test_a_full_disk_of_a_machine_removes_nothing_from_the_bucket(
    node: NodeContext, section: StorageSection, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Usage(total=100, free=0, images=0)
    monkeypatch.setattr(removal, "disk_usage", lambda _node: full)
    plans = []
    monkeypatch.setattr(removal, "carry_out", lambda _node, removals: plans.append(list(removals)))
    moved = settings_at(node.settings.node.data_dir, section)
    in_bucket = NodeContext(settings=moved, database=node.database, store=open_store(moved))
    with node.database.read() as session:
        assert removal.usage_of(node, session).free_percent == 0
        assert removal.usage_of(in_bucket, session).free_percent == 100
    removal.guard_disk(in_bucket)
    assert plans == []
    removal.guard_disk(node)
    assert len(plans) == 1, "a folder on that disk is cleared"
