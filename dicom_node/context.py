"""The context that every part of a running node is given: settings, index, store, clock and the sign to stop."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dicom_node.config import Settings
from dicom_node.index.database import Database
from dicom_node.index.database import utc_now as utc_now

if TYPE_CHECKING:
    from dicom_node.storage.documents import DocumentStore
    from dicom_node.storage.instance_store import InstanceStore


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """One process's view of the node. Values only; whoever makes it also closes what it holds.

    stop: set when the process was asked to end; long work looks at it between steps. not_ready: the names of this
    node's processes that have not begun their work, as the main process knows them.
    """

    settings: Settings
    database: Database
    store: InstanceStore
    clock: Callable[[], dt.datetime] = utc_now
    stop: threading.Event = field(default_factory=threading.Event)
    not_ready: Callable[[], Sequence[str]] = tuple

    def __post_init__(self) -> None:
        """SQLite has no clock of its own and takes the node's; a PostgreSQL server goes by its own."""
        if self.database.is_sqlite:
            self.database.clock = self.clock

    @property
    def documents(self) -> DocumentStore:
        """The DICOM objects that we make, until retention removes them; `Document.path` is a name in it."""
        from dicom_node.storage.opening import open_documents

        return open_documents(self.settings)

    @property
    def documents_dir(self) -> Path:
        """Where the DICOM objects that we make lie until retention removes them; `Document.path` is relative to it."""
        return self.settings.node.data_dir / "documents"

    @property
    def models_dir(self) -> Path:
        """Where the checkpoints of this site lie."""
        return self.settings.node.data_dir / "models"
