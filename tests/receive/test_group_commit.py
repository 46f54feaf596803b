"""Group commit: two receivers whose batches lock the same studies in opposite order lose nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.errors import IndexConflictError
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Study
from dicom_node.receive.group_commit import IndexWriter
from tests.support.delivery_node import Clock, make_node, make_result
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.usefixtures("each_index")


def test_a_deadlock_between_two_receivers_is_tried_again(postgres_server: PostgresServer, tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock(), database={"url": postgres_server.new_database()})
    for number in (1, 2):
        make_result(node, study_uid=f"1.2.{number}")
    both_hold_one = threading.Barrier(2)
    tried: list[str] = []

    def work(first: int, second: int, name: str) -> Callable[[Session], str]:
        def run(session: Session) -> str:
            tried.append(name)
            touch(session, first, name)
            if tried.count(name) == 1:
                both_hold_one.wait(30)
            touch(session, second, name)
            return name

        return run

    done: list[str] = []
    databases = [Database(node.database.url) for _ in range(2)]
    threads = [
        threading.Thread(target=lambda d=d, w=w: done.append(IndexWriter(d).run(w)))
        for d, w in zip(databases, (work(1, 2, "a"), work(2, 1, "b")), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == ["a", "b"]
    assert len(tried) >= 3, "one of the two was undone and tried again"
    with node.database.read() as session:
        texts = set(session.scalars(select(Study.study_description)))
    assert len(texts) == 1, "the last one to commit wrote both"
    for database in (*databases, node.database):
        database.close()


def touch(session: Session, number: int, name: str) -> None:
    session.execute(update(Study).where(Study.study_instance_uid == f"1.2.{number}").values(study_description=name))


def test_a_conflict_without_end_is_told(tmp_path: Path) -> None:
    node = make_node(tmp_path, Clock())
    tries: list[int] = []

    def always_undone(_session: Session) -> None:
        tries.append(1)
        raise IndexConflictError("undone")

    with pytest.raises(IndexConflictError):
        IndexWriter(node.database).run(always_undone)
    assert len(tries) == 4
    node.database.close()
