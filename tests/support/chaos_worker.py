"""A worker of a group: `… CONFIG LEASE_SECONDS MODEL_SECONDS [HOST]` sweeps, analyses in a fixed time, and delivers.

HOST: the name of its machine, where the kernel lets a process have one of its own.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import socket
import sys
import threading
from pathlib import Path

from dicom_node import deliver
from dicom_node.analysis import job as analyse_job
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

NAMES = {"completion", "rescue", "reconcile"}


_NEW_NAMES = 0x04000000
"""CLONE_NEWUTS of unshare(2): a host name of one's own."""


def main(config: Path, lease_seconds: float, model_seconds: float) -> None:
    """Work until SIGTERM or the test's SIGKILL."""
    queue.LEASE = dt.timedelta(seconds=lease_seconds)  # a stopped worker is overtaken within a test's time
    queue.FIRST_RETRY = dt.timedelta(seconds=0.5)
    settings = load_settings(config)
    configure(settings.logging)
    stop = threading.Event()
    stop_on_signals(stop)
    database = Database(settings.database.url)
    node = NodeContext(
        settings=settings, database=database, store=open_store(settings), clock=clock_of(database), stop=stop
    )
    model = FixedTimeModel(model_seconds)
    sweeper = Sweeper(node, tuple(tick for tick in TICKS if tick.name in NAMES))
    worker = Worker(
        node,
        {JobKind.ANALYSE: analyse_job.handler(model), JobKind.DELIVER: deliver.handle},  # type: ignore[arg-type]
    )
    sweeper.start()
    worker.start()
    print("working", flush=True)
    stop.wait()
    worker.stop()
    sweeper.stop()


if __name__ == "__main__":
    if len(sys.argv) > 4 and ctypes.CDLL(None).unshare(_NEW_NAMES) == 0:
        socket.sethostname(sys.argv[4])
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
