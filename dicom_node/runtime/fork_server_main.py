"""Start of the fork server of `serve`: importing this module prepares it before it forks the first child.

It imports what a receiver needs, which is nearly all that every other child needs too, and nothing that a receiver
must not carry.
"""

from __future__ import annotations

import gc
import os
import platform
import signal
from types import FrameType

from dicom_node.runtime import fork_server
from dicom_node.system.child_process import end_with_parent
from dicom_node.system.collection import hold_collection
from model.images.light_pydicom import import_pydicom

_THREADS_OF_NUMPY = "OPENBLAS_NUM_THREADS"


def _live_as_long_as_main(number: int, _frame: FrameType | None) -> None:
    """Leave the end of the server to that of the main process, which ends the children first.

    A signal may be meant for a whole group of processes. A child that has not set its own answer to it yet just ends.
    """
    if not fork_server.is_server():
        os._exit(128 + number)


def _import_libraries() -> None:
    """Import without a thread: none may run where processes are forked."""
    given_threads = os.environ.get(_THREADS_OF_NUMPY)
    os.environ[_THREADS_OF_NUMPY] = "1"  # read once, when numpy is imported
    import_pydicom()
    from sqlalchemy.orm import configure_mappers

    import dicom_node.receive.receiver
    import dicom_node.runtime.child_mains  # noqa: F401

    if given_threads is None:
        del os.environ[_THREADS_OF_NUMPY]
    else:
        os.environ[_THREADS_OF_NUMPY] = given_threads
    configure_mappers()


fork_server.become_server()
if platform.system() == "Linux":  # elsewhere children watch the main process themselves, and a watch is a thread
    end_with_parent(os.getppid())
for _number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, _live_as_long_as_main)
hold_collection()
_import_libraries()
gc.freeze()  # a child that collects garbage would else write to all pages that it shares with the others
