"""Receivers and workers as processes of their own over one PostgreSQL: each starts, says so in the audit, and ends."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from dicom_node.index.database import Database
from dicom_node.index.tables.core import AuditEvent, Result
from tests.support.common import wait_until
from tests.support.dcmtk import storescu
from tests.support.node import Node, new_node
from tests.support.postgres import PostgresServer
from tests.support.tiny_nvila import save_tiny
from training.phantom.dicom import write_study_pair


def test_a_receiver_and_a_worker_share_the_work_and_tell_of_their_lives(
    tmp_path: Path, postgres_server: PostgresServer, postgres_template: str
) -> None:
    url = postgres_server.new_database(template=postgres_template)
    database = Database(url)
    tiny = save_tiny(tmp_path / "tiny")
    data = f'data_dir = "{tmp_path / "data"}"\n'
    more = f'[database]\nurl = "{url}"\n[receive]\nmin_free_mib = 0\n[model]\nsource = "{tiny}"\n'
    nodes = []
    for role in ("receive", "work"):
        node = new_node(tmp_path / role, extra=more)
        text = node.config.read_text("utf-8").replace("[completion]", f"{data}[completion]")
        node.config.write_text(text, "utf-8")
        node.role = role
        nodes.append(node)
    receiver, worker = nodes
    try:
        for node in nodes:
            node.start()
        made = write_study_pair(tmp_path / "films", 8, long_side=384)
        storescu(made.current.files, receiver.port)
        wait_until(lambda: results(database) == 1, seconds=180, what="the worker's result")
    finally:
        ends = [stopped(node) for node in nodes]
    assert ends == [0, 0], worker.log[-3000:]
    with database.read() as session:
        told = session.execute(select(AuditEvent.event_id, AuditEvent.event_type).order_by(AuditEvent.id)).all()
    events = [event for event in told if event.event_id == "110100"]
    assert [event.event_type for event in events] == ["110120", "110120", "110121", "110121"]
    assert {"110102", "110104"} <= {event.event_id for event in told}
    database.close()


def results(database: Database) -> int:
    with database.read() as session:
        return len(session.scalars(select(Result.id)).all())


def stopped(node: Node) -> int | None:
    return node.stop() if node.process is not None and node.process.poll() is None else None
