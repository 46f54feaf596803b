"""A process that only sweeps and delivers, for tests that kill it: `python -m tests.deliver.delivering CONFIG`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from dicom_node import deliver, sweeps
from dicom_node.config import load_settings
from dicom_node.context import NodeContext
from dicom_node.index.database import Database
from dicom_node.index.tables import JobKind
from dicom_node.process import stop_on_signals
from dicom_node.store import InstanceStore
from dicom_node.sweeps import Sweeper
from dicom_node.worker import Worker


def main(config: Path) -> None:
    """Deliver until SIGTERM or the test's SIGKILL."""
    settings = load_settings(config)
    stop = threading.Event()
    stop_on_signals(stop)
    node = NodeContext(
        settings=settings,
        database=Database(settings.database.url),
        store=InstanceStore(settings.node.data_dir / "instances"),
        stop=stop,
    )
    ticks = tuple(tick for tick in sweeps.TICKS if tick.name in ("rescue", "reconcile"))
    sweeper, worker = Sweeper(node, ticks), Worker(node, {JobKind.DELIVER: deliver.handle})
    sweeper.start()
    worker.start()
    stop.wait()
    worker.stop()
    sweeper.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
