"""UIDs: which strings are UIDs (PS3.5 section 9.1), and ours, derived from their inputs so that a retry reuses them."""

from __future__ import annotations

import hashlib
import re

from model.derived_uids import uid_of_digest

_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
MAX_LENGTH = 64


def is_uid(value: str) -> bool:
    """Tell whether `value` is a UID by PS3.5 section 9.1: dotted numbers without leading zeros, at most 64
    characters."""
    return len(value) <= MAX_LENGTH and _UID.fullmatch(value) is not None


def derive_uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 section B.2) that depends on `parts` and on nothing else."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return uid_of_digest(digest)


IMPLEMENTATION_CLASS_UID = derive_uid("dicom-node", "implementation class")
"""Identifies this software in associations and files (PS3.7 section D.3.3.2)."""

IMPLEMENTATION_VERSION_NAME = "DICOM_NODE_01"
