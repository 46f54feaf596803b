"""Takes the lead and keeps it until it is killed: `python -m tests.support.leading DIR DATABASE_URL`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from dicom_node.system.leader_election import Leadership
from tests.support.delivery_node import Clock, make_node


def main(folder: Path, url: str) -> None:
    """Say whether it leads, and stay."""
    node = make_node(folder, Clock(), database={"url": url})
    print(f"leads: {Leadership(node).take_or_keep()}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
