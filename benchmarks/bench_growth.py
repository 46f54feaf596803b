"""Cost of a study while 1, 10, 100 … others wait, and the time of a single study from arrival to the archive.

    PYTHONPATH=. python -m benchmarks.bench_growth --waiting 1 10 100

A real node with SQLite, the demonstration model and a PACS that commits. So many studies of 0.5 MB, each of a patient
of its own, are sent one after the other as fast as they are taken; then the table tells the CPU seconds of all
processes of the node for each, and the seconds from the first C-STORE to the last proof. Nothing should grow faster
than the work. A single study is sent several times: its seconds are those from the closing of the study to the storing
of its last report at the PACS, as the index has them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import func, select

from benchmarks.bench_soak import make_films, send, unproven, waiting
from benchmarks.profile_study import cpu_seconds, processes_of, site
from dicom_node.index.tables.core import Delivery, Document, Result, Study
from tests.support.common import wait_until
from tests.support.node import Node


def seconds_to_archive(node: Node, after: int) -> list[float]:
    """From the closing of each study with an ID above `after` to the storing of its last report."""
    with node.database() as database, database.read() as session:
        rows = session.execute(
            select(Study.completed_at, func.max(Delivery.stored_at))
            .join(Result, Result.study_pk == Study.id)
            .join(Document, Document.result_pk == Result.id)
            .join(Delivery, Delivery.document_pk == Document.id)
            .where(Study.id > after)
            .group_by(Study.id, Study.completed_at)
        ).all()
    return [(stored - closed).total_seconds() for closed, stored in rows if closed is not None and stored is not None]


def last_study(node: Node) -> int:
    with node.database() as database, database.read() as session:
        return session.scalar(select(func.max(Study.id))) or 0


class Sender:
    """Sends studies of ever new patients and waits for what follows from them."""

    def __init__(self, node: Node, folder: Path) -> None:
        self._node, self._films, self._sent = node, make_films(folder), 0

    def pass_through(self, count: int) -> float:
        """Send so many at once; seconds until all are analysed and every report is proven."""
        began = time.monotonic()
        for _ in range(count):
            assert send(self._films[self._sent % len(self._films)], self._sent, self._node.port) == 0
            self._sent += 1
        wait_until(
            lambda: waiting(self._node) == 0 and unproven(self._node) == 0, seconds=60 + 30 * count, what="the results"
        )
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a study while others wait.")
    parser.add_argument("--waiting", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--single", type=int, default=10, help="times that a single study is sent")
    asked = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}\n\n| waiting | CPU s a study | seconds | seconds a study |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, site(Path(folder) / "node", "demo") as node:
        sender = Sender(node, Path(folder) / "films")
        sender.pass_through(2)  # the first study loads the model
        before = last_study(node)
        for _ in range(asked.single):
            sender.pass_through(1)
        alone = sorted(seconds_to_archive(node, before))
        pids = processes_of(node)
        for count in asked.waiting:
            spent = cpu_seconds(pids)
            seconds = sender.pass_through(count)
            cpu = sum(cpu_seconds(pids).values()) - sum(spent.values())
            print(f"| {count} | {cpu / count:.2f} | {seconds:.1f} | {seconds / count:.2f} |", flush=True)
    print(
        f"\nclosed to archive, alone, {len(alone)} studies: median {statistics.median(alone):.2f} s, greatest "
        f"{alone[-1]:.2f} s; load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
