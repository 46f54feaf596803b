"""UIDs derived from content, so that the same content has the same UID on every machine and at every try."""

from __future__ import annotations

import uuid


def uid_of_digest(digest: bytes) -> str:
    """A UID under 2.25 (PS3.5 section B.2) from the first 16 bytes of a SHA-256, read as a UUID of version 5."""
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"
