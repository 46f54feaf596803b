"""Writes a line for each tick, for a test that puts it to sleep: `python -m tests.support.ticking DIR S`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from dicom_node.context import NodeContext, utc_now
from dicom_node.runtime.scheduler import Sweeper
from dicom_node.runtime.ticks import Tick
from tests.support.delivery_node import make_node


def main(folder: Path, seconds: float) -> None:
    """Tick until killed."""

    def note(_node: NodeContext) -> None:
        with (folder / "ticks").open("a", encoding="ascii") as file:
            file.write("tick\n")

    node = make_node(folder, utc_now)  # type: ignore[arg-type]
    Sweeper(node, (Tick(name="note", seconds=seconds, action=note),)).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
