"""The queue with 1,000,000 ready bulk jobs on PostgreSQL: an idle lane's look, a claim, and what is claimed next.

PYTHONPATH=. python benchmarks/bench_queue.py [JOBS]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from sqlalchemy import text

from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.index.tables.core import JobKind
from dicom_node.jobs import backlog
from dicom_node.jobs import queue as jobs
from dicom_node.jobs.wakeups import SLOW_POLL
from tests.support.postgres import running_postgres

BULK = """
INSERT INTO job
  (kind, key, payload, state, priority, attempts, max_attempts, run_at, created_at, lease_owner, last_error)
SELECT 'analyse', 'bulk' || n, '{}', 'ready', 200, 0, 8, now() - interval '1 hour' + n * interval '1 ms', now(), '', ''
FROM generate_series(1, :count) n
"""
JOBS = 1_000_000
TIMES = 41


def median_ms(action: Callable[[], object]) -> float:
    """The median of TIMES runs, in milliseconds."""
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def main() -> None:
    """Fill a queue and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", type=int, nargs="?", default=JOBS, help=f"jobs that wait (default {JOBS:,})")
    count = parser.parse_args().jobs
    with running_postgres(durable=True) as server:
        database = Database(server.new_database())
        schema.upgrade(database)
        with database.write() as session:
            session.execute(text(BULK), {"count": count})
        with database.connection(begin=True) as connection:
            connection.execute(text("ANALYZE job"))

        def look(kind: JobKind) -> None:
            with database.read() as session:
                backlog.seconds_to_next(session, (kind,), within=SLOW_POLL)

        def do_one(kind: JobKind) -> str:
            with database.write() as session:
                job = jobs.claim(session, kinds=(kind,), owner="bench")
            if job is None:
                return ""
            with database.write() as session:
                jobs.complete(session, job)
            return job.key

        print(f"{count} ready bulk jobs, PostgreSQL on loopback, fsync on, median of {TIMES}")
        print(f"look of an idle lane (deliver)   {median_ms(lambda: look(JobKind.DELIVER)):7.2f} ms")
        print(f"look of the lane with work       {median_ms(lambda: look(JobKind.ANALYSE)):7.2f} ms")
        print(f"claim of an idle lane            {median_ms(lambda: do_one(JobKind.DELIVER)):7.2f} ms")
        print(f"claim and complete               {median_ms(lambda: do_one(JobKind.ANALYSE)):7.2f} ms")
        with database.write() as session:
            jobs.enqueue(session, JobKind.ANALYSE, "tonight", {})
        print(f"claimed after a routine job came: {do_one(JobKind.ANALYSE)}")
        database.close()


if __name__ == "__main__":
    main()
