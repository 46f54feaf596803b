"""A sweeper with a study that waits, in a process of its own whose clock a test sets (libfaketime).

`python -m tests.support.faked_clock FOLDER`: for each name on standard input a study arrives, and its name is written
when it is closed.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from dicom_node.config import Settings
from dicom_node.context import NodeContext
from dicom_node.index import schema
from dicom_node.index.database import Database, utc_now
from dicom_node.index.tables.core import StudyState
from dicom_node.logs import configure
from dicom_node.runtime.scheduler import Sweeper
from dicom_node.runtime.ticks import Tick, complete_studies
from dicom_node.storage.folder_store import FolderStore
from tests.support.index import arrive, received, study

QUIET_SECONDS = 3.0


def main(folder: Path) -> None:
    tables = {
        "node": {"data_dir": folder},
        "database": {"url": f"sqlite:///{folder}/index.db"},
        "completion": {"quiet_seconds": QUIET_SECONDS, "deadline_seconds": 10_000_000},
    }
    settings = Settings.model_validate(tables)
    configure(settings.logging)
    database = Database(settings.database.url)
    schema.upgrade(database)
    node = NodeContext(settings=settings, database=database, store=FolderStore(folder / "instances"), clock=utc_now)
    sweeper = Sweeper(node, (Tick(name="complete", seconds=0.5, action=complete_studies),))
    sweeper.start()
    pause = threading.Event()
    for line in sys.stdin:
        name = line.strip()
        arrive(database, received(name), utc_now())
        print(f"arrived {name}", flush=True)
        while study(database, name).state is StudyState.OPEN:
            pause.wait(0.05)  # time.sleep fails in libfaketime when the clock jumps
        print(f"closed {name}", flush=True)
    sweeper.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
