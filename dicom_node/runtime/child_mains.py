"""The children of `serve`, each in a process of its own: what it runs, when it is ready, how it shows that it lives.

Imports of what a child needs are inside its function: a receiver must not carry the libraries of the worker.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing.synchronize import Event as ProcessEvent

from dicom_node.config import Settings
from dicom_node.context import NodeContext
from dicom_node.errors import NodeError
from dicom_node.index.clock import clock_of
from dicom_node.index.database import Database
from dicom_node.index.tables.core import JobKind
from dicom_node.logs import configure, get_logger
from dicom_node.runtime.fork_server import end_with_server
from dicom_node.storage.opening import open_store
from dicom_node.system.child_process import name_process, stop_on_signals
from dicom_node.system.collection import hold_collection, resume_collection
from dicom_node.system.pulse import Pulse

log = get_logger(__name__)

BEAT_SECONDS = 1.0

ChildMain = Callable[[Settings, ProcessEvent, Pulse, threading.Event], None]


def node_context(settings: Settings, stop: threading.Event) -> NodeContext:
    """This process's own connection to index and store."""
    database = Database(settings.database.url)
    return NodeContext(
        settings=settings,
        database=database,
        store=open_store(settings),
        clock=clock_of(database),
        stop=stop,
    )


def child_main(
    name: str,
    main: ChildMain,
    settings: Settings,
    ready: ProcessEvent,
    pulse: Pulse,
    environment: Mapping[str, str],
) -> None:
    """Run one child until it is told to stop: what all children do before and after their own part.

    environment: the main process's, which knows more by now than when it started the fork server.
    """
    hold_collection()
    end_with_server()
    name_process(name)
    os.environ.update(environment)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is the main process's sign to start its children again
    configure(settings.logging)
    stop = threading.Event()
    stop_on_signals(stop)
    log.info("process started", child=name, pid=os.getpid())
    try:
        main(settings, ready, pulse, stop)
    except NodeError as error:
        log.error("the process cannot do its work", child=name, error=str(error))
        raise SystemExit(1) from error


def _end_start(ready: ProcessEvent) -> None:
    """Collect garbage again and say that the work begins."""
    resume_collection()
    ready.set()


def receiver_main(settings: Settings, ready: ProcessEvent, pulse: Pulse, stop: threading.Event) -> None:
    """Receive: a pulse as long as the process lives, the receiver watches its own threads."""
    from dicom_node.receive import Receiver

    node = node_context(settings, stop)
    receiver = Receiver(settings, node.database, node.store)
    receiver.start()
    _end_start(ready)
    while not stop.wait(BEAT_SECONDS):
        pulse.beat()
    receiver.stop()
    node.database.close()


def night_main(settings: Settings, ready: ProcessEvent, pulse: Pulse, stop: threading.Event) -> None:
    """Start the training in its windows."""
    from dicom_node.retrain.scheduled_run import run_nights

    node = node_context(settings, stop)
    _end_start(ready)
    threading.Thread(target=_beat_until, args=(pulse, stop), name="pulse", daemon=True).start()
    run_nights(node)
    node.database.close()


def _beat_until(pulse: Pulse, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        pulse.beat()


def worker_main(settings: Settings, ready: ProcessEvent, pulse: Pulse, stop: threading.Event) -> None:
    """Claim jobs: the pulse beats only while the lanes move, so that a worker that hangs is started again."""
    from dicom_node import deliver
    from dicom_node.analysis import job as analyse_job
    from dicom_node.backfill import job as backfill
    from dicom_node.feedback.reports import job as read_report
    from dicom_node.jobs.worker import Worker
    from dicom_node.priors.retrieval import job as fetch
    from dicom_node.serving.champion import ServingModels
    from dicom_node.serving.shadow import ShadowModel

    node = node_context(settings, stop)
    models = ServingModels(node)
    models.start()
    challenger = ShadowModel(node)
    worker = Worker(
        node,
        {
            JobKind.ANALYSE: analyse_job.handler(models),
            JobKind.BACKFILL: backfill.handle,
            JobKind.DELIVER: deliver.handle,
            JobKind.FETCH: fetch.handle,
            JobKind.REPORT: read_report.handle,
            JobKind.SHADOW: challenger.handle,
        },
        companions={JobKind.DELIVER: deliver.add_companions},
    )
    worker.start()
    _end_start(ready)
    while not stop.wait(BEAT_SECONDS):
        if worker.is_moving():
            pulse.beat()
    challenger.close()
    worker.stop()
    models.close()
    node.database.close()
