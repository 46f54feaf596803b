"""Sessions that were ended by a log-out before their time: a copied cookie is worth nothing after it."""

from __future__ import annotations

import json
import secrets
import threading
import time
from pathlib import Path


class EndedSessions:
    """Session ids in a file of the data folder, each until its cookie would have run out. For all threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._until: dict[str, float] = {}
        try:
            self._until = {str(key): float(value) for key, value in json.loads(path.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError):
            self._until = {}  # the first start, or a file that somebody damaged: cookies end by their own time then

    def end(self, session_id: str, until: float) -> None:
        """Note an ended session durably."""
        with self._guard:
            now = time.time()
            self._until = {key: value for key, value in self._until.items() if value > now}
            self._until[session_id] = until
            temporary = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}")
            temporary.write_text(json.dumps(self._until), "utf-8")
            temporary.replace(self._path)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._until
