"""Wakes waiting lanes when the job table changes, so that an idle node need not ask it again and again.

PostgreSQL: a trigger on `job` notifies the kind of each job that becomes ready (migrations), and one connection of each
worker listens. SQLite, where writers are other processes of the same machine: `PRAGMA data_version`, a counter that
changes with every commit of another connection; reading it takes no lock and costs microseconds. It is read at once
where the bell rings that whoever makes a job rings (`dicom_node.jobs.bell`). After a change one statement asks which
kinds have a job that is due, or one that will be sooner than before. All this only saves time: a lane asks by itself
every few seconds, so a lost notification delays a job and loses none.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import defaultdict
from collections.abc import Collection

from dicom_node.context import NodeContext
from dicom_node.errors import IndexUnavailableError
from dicom_node.index.commits import read_commit_counter
from dicom_node.index.tables.core import JobKind
from dicom_node.jobs import backlog
from dicom_node.jobs.bell import doorbell_of
from dicom_node.logs import get_logger

log = get_logger(__name__)

CHANNEL = "dicom_node_jobs"
LOOK_SECONDS = 0.1
"""The interval at which SQLite's counter is read where nobody rings: jobs that wait no longer, and another worker's."""
SLOW_POLL = dt.timedelta(seconds=10)
"""The interval at which an idle lane looks for due work by itself; otherwise it is woken here."""
BESIDE_POLL = dt.timedelta(seconds=60)
"""The same for a thread that works only while others wait; a wake-up comes with each study that does."""
LISTEN_SECONDS = 0.5
"""The length of one wait on PostgreSQL's connection; between two waits the stop signal is looked at."""
RECONNECT_SECONDS = 2.0


class Wakeups:
    """One watching thread for all lanes of a worker."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._changed = threading.Condition()
        self._generations: dict[JobKind, int] = defaultdict(int)
        self._thread = threading.Thread(target=self._watch, name="wakeups", daemon=True)

    def start(self) -> None:
        """Begin to watch; ends when the node stops."""
        self._thread.start()

    def join(self) -> None:
        """Wait until the watching thread has ended."""
        self._thread.join()

    def generation(self, kinds: Collection[JobKind]) -> int:
        """Return a number that grows with each change; read it *before* looking for work."""
        with self._changed:
            return sum(self._generations[kind] for kind in kinds)

    def wait(self, kinds: Collection[JobKind], generation: int, seconds: float) -> None:
        """Return when a job of these kinds may have become ready since `generation`, or after `seconds`."""
        with self._changed:
            self._changed.wait_for(
                lambda: sum(self._generations[kind] for kind in kinds) != generation or self._node.stop.is_set(),
                timeout=seconds,
            )

    def wake(self, kinds: Collection[JobKind]) -> None:
        """Let the lanes of these kinds look again."""
        with self._changed:
            for kind in kinds:
                self._generations[kind] += 1
            self._changed.notify_all()

    def _watch(self) -> None:
        watch = self._watch_sqlite if self._node.database.is_sqlite else self._listen
        while not self._node.stop.is_set():
            try:
                watch()
            except IndexUnavailableError as error:
                log.warning("changes of the queue are not seen; lanes ask by themselves", error=str(error))
                self._node.stop.wait(RECONNECT_SECONDS)
            except Exception:  # without this thread every job would wait for the slow poll from here on
                log.exception("the watch of the queue failed and starts again")
                self._node.stop.wait(RECONNECT_SECONDS)
        self.wake(tuple(JobKind))  # a lane that waits has to see the sign to stop

    def _watch_sqlite(self) -> None:
        with self._node.database.raw_connection() as connection, doorbell_of(self._node.database) as bell:
            cursor = connection.cursor()
            before = None
            known: dict[JobKind, tuple[dt.datetime, bool]] = {}
            while not self._node.stop.is_set():
                bell.wait(LOOK_SECONDS)
                version = read_commit_counter(cursor)
                if version == before:
                    continue
                before = version
                # Most commits are of other tables. One look for all lanes: nine of them that each look by themselves
                # took a fifth of a busy worker's time.
                with self._node.database.read() as session:
                    times = backlog.next_times(session, tuple(JobKind), within=SLOW_POLL)
                # A lane knows when its next job is due and waits for it by itself, so a job in the future wakes it only
                # where its time is news.
                self.wake([kind for kind, (at, is_due) in times.items() if is_due or known.get(kind) != (at, False)])
                known = times

    def _listen(self) -> None:
        with self._node.database.raw_connection() as connection:
            connection.autocommit = True
            connection.execute(f"LISTEN {CHANNEL}")
            self.wake(tuple(JobKind))  # what came while nobody listened
            while not self._node.stop.is_set():
                for notification in connection.notifies(timeout=LISTEN_SECONDS):
                    if notification.payload in set(JobKind):
                        self.wake((JobKind(notification.payload),))
