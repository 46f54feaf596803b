"""A worker with a backfill: `… CONFIG` drives runs, brings studies and analyses them in no time, until it is killed."""

from __future__ import annotations

import datetime as dt
import sys
import threading
from pathlib import Path

from dicom_node.analysis import job as analyse_job
from dicom_node.backfill import job as backfill
from dicom_node.config import load_settings
from dicom_node.context import NodeContext
from dicom_node.index.clock import clock_of
from dicom_node.index.database import Database
from dicom_node.index.tables.core import JobKind
from dicom_node.jobs import queue
from dicom_node.jobs.worker import Worker
from dicom_node.logs import configure
from dicom_node.runtime.scheduler import Sweeper
from dicom_node.runtime.ticks import TICKS
from dicom_node.storage.opening import open_store
from dicom_node.system.child_process import stop_on_signals
from tests.support.fixed_model import FixedTimeModel

NAMES = {"backfill", "rescue"}


def main(config: Path) -> None:
    """Work until SIGTERM or the test's SIGKILL."""
    queue.LEASE = dt.timedelta(seconds=4)
    queue.FIRST_RETRY = dt.timedelta(seconds=0.5)
    settings = load_settings(config)
    configure(settings.logging)
    stop = threading.Event()
    stop_on_signals(stop)
    database = Database(settings.database.url)
    node = NodeContext(
        settings=settings, database=database, store=open_store(settings), clock=clock_of(database), stop=stop
    )
    sweeper = Sweeper(node, tuple(tick for tick in TICKS if tick.name in NAMES))
    analyse = analyse_job.handler(FixedTimeModel(0.0))  # type: ignore[arg-type]
    worker = Worker(node, {JobKind.ANALYSE: analyse, JobKind.BACKFILL: backfill.handle})
    sweeper.start()
    worker.start()
    stop.wait()
    worker.stop()
    sweeper.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
