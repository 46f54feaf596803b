"""Studies per minute with 1, 2 and 4 workers and a model of fixed time, and the queue's own cost: `make bench-scale`.

PYTHONPATH=. python benchmarks/bench_scale.py [--studies N] [--model-seconds S]

The workers are processes of one machine on one PostgreSQL with fsync on; they decode, check, answer after a fixed time,
build and store both reports. What is measured is everything around a model, so the model's time is a wait without CPU.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from sqlalchemy import ColumnElement, func, select

from dicom_node.config import LoggingSection, NodeSection, Settings
from dicom_node.context import NodeContext
from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.index.tables.core import Job, JobKind, JobState, Result
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.jobs.worker import Worker
from dicom_node.logs import configure
from dicom_node.storage.folder_store import FolderStore
from tests.support.archives import receive
from tests.support.common import wait_until
from tests.support.group import studies
from tests.support.postgres import running_postgres

EMPTY_JOBS = 400


def count(database: Database, *which: ColumnElement[bool]) -> int:
    """The number of rows: results, or jobs that match."""
    with database.read() as session:
        rows = select(func.count()).select_from(Job if which else Result)
        return int(session.scalar(rows.where(*which)) or 0)


def studies_per_minute(url: str, folder: Path, *, workers: int, number: int, model_seconds: float) -> float:
    """Start the workers on an empty index, put studies in, and wait for the last report."""
    database = Database(url)
    schema.upgrade(database)
    config = folder / "config.toml"
    config.write_text(f'[node]\ndata_dir = "data"\n[database]\nurl = "{url}"\n[completion]\nquiet_seconds = 0\n')
    command = [sys.executable, "-m", "tests.support.chaos_worker", str(config), "60", str(model_seconds)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(workers)]
    node = NodeContext(
        settings=Settings(node=NodeSection(data_dir=folder / "data")),
        database=database,
        store=FolderStore(folder / "data" / "instances"),
    )
    try:
        films = studies(folder / "films", number)
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline(), "a worker ended"
        for film in films:
            receive(node, film)
        wait_until(lambda: count(database) > 0, seconds=600, what="the first report", closely=True)
        began, first = time.monotonic(), count(database)
        wait_until(lambda: count(database) == number, seconds=3600, what="the last report", closely=True)
        return 60 * (number - first) / (time.monotonic() - began)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)
        database.close()


def milliseconds_per_job(url: str, folder: Path) -> tuple[float, float]:
    """CPU and wall milliseconds of this process for each of EMPTY_JOBS jobs that do nothing but end."""
    database = Database(url)
    schema.upgrade(database)
    stop = threading.Event()
    node = NodeContext(
        settings=Settings(node=NodeSection(data_dir=folder)), database=database, store=FolderStore(folder), stop=stop
    )
    with database.write() as session:
        for number in range(EMPTY_JOBS):
            jobs.enqueue(session, JobKind.ANALYSE, str(number), {})
    left, ended = [EMPTY_JOBS], threading.Event()

    def end(job: ClaimedJob, context: NodeContext) -> None:
        with context.database.write() as session:
            jobs.complete(session, job)
        left[0] -= 1
        if not left[0]:
            ended.set()

    worker = Worker(node, {JobKind.ANALYSE: end})
    cpu, wall = time.process_time(), time.perf_counter()
    worker.start()
    assert ended.wait(600)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    worker.stop()
    assert count(database, Job.state == JobState.DONE) == EMPTY_JOBS
    database.close()
    return 1000 * cpu / EMPTY_JOBS, 1000 * wall / EMPTY_JOBS


def main() -> None:
    """Run and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=24, help="for each worker")
    parser.add_argument("--model-seconds", type=float, default=2.0)
    options = parser.parse_args()
    print(
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {platform.machine()}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    configure(LoggingSection(level="warning"))
    with running_postgres(durable=True) as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"\n| {EMPTY_JOBS} jobs that do nothing | CPU ms a job | wall ms a job |\n|---|---|---|")
        for kind, url in (("SQLite", f"sqlite:///{folder}/index.db"), ("PostgreSQL", server.new_database())):
            cpu, wall = milliseconds_per_job(url, folder / kind)
            print(f"| {kind} | {cpu:.1f} | {wall:.1f} |", flush=True)
        print(f"\n| workers | studies | studies a minute, model of {options.model_seconds} s |\n|---|---|---|")
        for workers in (1, 2, 4):
            own = folder / str(workers)
            own.mkdir()
            number = options.studies * workers
            rate = studies_per_minute(
                server.new_database(), own, workers=workers, number=number, model_seconds=options.model_seconds
            )
            print(f"| {workers} | {number} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
