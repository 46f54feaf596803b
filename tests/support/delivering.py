"""A process that sweeps and delivers, for tests that kill it: `python -m tests.support.delivering CONFIG [analyse]`.

With "analyse" it also completes studies and analyses them, with the model in a process of its own, as the node does.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from dicom_node import deliver
from dicom_node.config import load_settings
from dicom_node.context import NodeContext
from dicom_node.index.database import Database
from dicom_node.index.tables.core import JobKind
from dicom_node.jobs.worker import Handler, Worker
from dicom_node.runtime import ticks
from dicom_node.runtime.scheduler import Sweeper
from dicom_node.storage.folder_store import FolderStore
from dicom_node.system.child_process import stop_on_signals


def main(config: Path, *, analyse: bool) -> None:
    """Deliver until SIGTERM or the test's SIGKILL."""
    settings = load_settings(config)
    stop = threading.Event()
    stop_on_signals(stop)
    node = NodeContext(
        settings=settings,
        database=Database(settings.database.url),
        store=FolderStore(settings.node.data_dir / "instances"),
        stop=stop,
    )
    names = {"rescue", "reconcile"} | ({"completion"} if analyse else set())
    handlers: dict[JobKind, Handler] = {JobKind.DELIVER: deliver.handle}
    models = None
    if analyse:
        # Imported only here: the killed processes of the other tests start quicker without.
        from dicom_node.analysis import job as analyse_job
        from dicom_node.serving.champion import ServingModels

        models = ServingModels(node, threads=1)
        models.start()
        handlers[JobKind.ANALYSE] = analyse_job.handler(models)
    sweeper = Sweeper(node, tuple(tick for tick in ticks.TICKS if tick.name in names))
    worker = Worker(node, handlers, companions={JobKind.DELIVER: deliver.add_companions})
    sweeper.start()
    worker.start()
    stop.wait()
    worker.stop()
    sweeper.stop()
    if models is not None:
        models.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), analyse="analyse" in sys.argv[2:])
