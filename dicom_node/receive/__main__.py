"""`python -m dicom_node.receive CONFIG`: one receiver process by itself, until SIGTERM. For tests and benchmarks."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from dicom_node.config import load_settings
from dicom_node.errors import ConfigurationError, NodeError
from dicom_node.index import schema
from dicom_node.index.database import Database
from dicom_node.logs import configure, get_logger
from dicom_node.receive.receiver import run_receiver
from dicom_node.storage.opening import open_store
from dicom_node.system.child_process import stop_on_signals


def main(arguments: list[str]) -> int:
    """Exit status 0 after a graceful end, 1 where the receiver failed, 2 for a wrong configuration."""
    if len(arguments) != 1:
        print("usage: python -m dicom_node.receive CONFIG", file=sys.stderr)
        return 2
    stop = threading.Event()
    stop_on_signals(stop)
    try:
        settings = load_settings(Path(arguments[0]))
        configure(settings.logging)
        settings.node.data_dir.mkdir(parents=True, exist_ok=True)
        database = Database(settings.database.url)
        if database.is_sqlite:
            schema.upgrade(database)
        schema.require_current(database)
        store = open_store(settings)
        run_receiver(settings, database, store, stop=stop)
        database.close()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    except NodeError as error:
        get_logger(__name__).error("receiver ended", why=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
