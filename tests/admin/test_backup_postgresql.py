"""Backup and restore of an index on PostgreSQL, by its own programs; and a backup that is killed by the system."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from dicom_node.admin.backup import back_up, restore
from dicom_node.config import DatabaseSection, Settings
from dicom_node.context import utc_now
from dicom_node.errors import NodeError, UsageError
from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Study
from tests.support.common import program, wait_until
from tests.support.databases import add_tables
from tests.support.index import after, arrive, received, study, study_uid
from tests.support.postgres import PostgresServer
from tests.support.receiver import settings_for


def settings_on(url: str, folder: Path) -> Settings:
    return settings_for(folder).model_copy(update={"database": DatabaseSection(url=url)})


def names_in(url: str) -> list[str]:
    """UIDs of the studies of an index."""
    database = Database(url)
    try:
        with database.read() as session:
            return sorted(row.study_instance_uid for row in session.query(Study).all())
    finally:
        database.close()


@pytest.fixture
def full(postgres_server: PostgresServer, postgres_template: str, tmp_path: Path) -> Settings:
    """An index with two studies, and a file of one."""
    program("pg_dump")
    url = postgres_server.new_database(template=postgres_template)
    database = Database(url)
    for name in "ab":
        arrive(database, received(name), after(0))
    assert study(database, "a").study_instance_uid == study_uid("a")
    database.close()
    stored = tmp_path / "node" / "instances" / "files" / "00" / "a.dcm"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"film")
    return settings_on(url, tmp_path / "node")


def test_index_comes_back_into_an_empty_database(
    full: Settings, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    back_up(full, tmp_path / "backup")
    fresh = settings_on(postgres_server.new_database(), tmp_path / "new")
    assert restore(fresh, tmp_path / "backup", now=utc_now()).copied == 1
    database = Database(fresh.database.url)
    schema.require_current(database)
    database.close()
    assert names_in(fresh.database.url) == names_in(full.database.url) == sorted(map(study_uid, "ab"))
    assert (tmp_path / "new" / "instances" / "files" / "00" / "a.dcm").read_bytes() == b"film"


def test_newer_index_is_set_aside_and_can_be_brought_back(full: Settings, tmp_path: Path) -> None:
    back_up(full, tmp_path / "backup")
    database = Database(full.database.url)
    arrive(database, received("c"), after(1))
    database.close()
    restore(full, tmp_path / "backup", now=utc_now())
    assert names_in(full.database.url) == sorted(map(study_uid, "ab"))
    (aside,) = (tmp_path / "node").glob("index.before-*.dump")
    (tmp_path / "backup" / "index.dump").write_bytes(aside.read_bytes())
    restore(full, tmp_path / "backup", now=after(10))
    assert names_in(full.database.url) == sorted(map(study_uid, "abc"))


def test_restore_under_a_running_node_is_refused_and_a_damaged_dump_changes_nothing(
    full: Settings, tmp_path: Path
) -> None:
    back_up(full, tmp_path / "backup")
    running = Database(full.database.url)
    with running.read(), pytest.raises(UsageError, match="1 connections to the index are open; stop all nodes"):
        restore(full, tmp_path / "backup", now=utc_now())
    running.close()
    dump = tmp_path / "backup" / "index.dump"
    dump.write_bytes(dump.read_bytes()[: dump.stat().st_size // 2])
    with pytest.raises(NodeError, match="pg_restore"):
        restore(full, tmp_path / "backup", now=utc_now())
    assert names_in(full.database.url) == sorted(map(study_uid, "ab"))


def test_backup_that_is_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    """SIGKILL between two files: no half file has its name, and the same command copies the rest."""
    files = tmp_path / "node" / "instances" / "files" / "00"
    files.mkdir(parents=True)
    for _ in range(400):
        (files / f"{generate_uid()}.dcm").write_bytes(bytes(20_000))
    settings = settings_for(tmp_path / "node")
    database = Database(settings.database.url)
    add_tables(database)
    database.close()
    config = tmp_path / "config.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path / "node"}"\n', "utf-8")
    copies = tmp_path / "backup" / "instances" / "files" / "00"
    command = [sys.executable, "-m", "dicom_node", "backup", str(tmp_path / "backup"), "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        wait_until(lambda: len(list(copies.glob("*.dcm"))) > 5, seconds=120, what="the first copies", closely=True)
        running.send_signal(signal.SIGKILL)
    copied = list(copies.glob("*.dcm"))
    assert 5 < len(copied) < 400
    assert {path.stat().st_size for path in copied} == {20_000}
    again = back_up(settings, tmp_path / "backup")
    assert (again.copied, again.there) == (400 - len(copied), len(copied))
