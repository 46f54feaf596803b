"""DIMSE statuses and Failure Reasons (0008,1197) by number, and what each means in words for a log or a page.

Of PS3.7 annex C, of the services' tables in PS3.4 (B.2-1 storage, C.4-1 to C.4-3 query and retrieve), and of PS3.3
section C.14.1.1 (storage commitment), which shares its numbers with annex C.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
PENDING_STATUSES: Final = frozenset({PENDING, 0xFF01})
"""Of C-FIND: another match follows; FF01H says that optional keys were not matched."""
CANCELLED: Final = 0xFE00
SUB_OPERATIONS_WARNING: Final = 0xB000
"""Of C-MOVE and C-GET: done, but for one or more instances."""

PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_SOP_INSTANCE: Final = 0x0111
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
INVALID_ARGUMENT: Final = 0x0115
CLASS_INSTANCE_CONFLICT: Final = 0x0119
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NO_SUCH_ACTION: Final = 0x0123
NOT_AUTHORISED: Final = 0x0124
DUPLICATE_TRANSACTION_UID: Final = 0x0131
UNRECOGNIZED_OPERATION: Final = 0x0211
RESOURCE_LIMITATION: Final = 0x0213
OUT_OF_RESOURCES: Final = 0xA700
"""The last two digits of A7xx, A9xx and Cxxx are the application's (PS3.4 section B.2.3)."""
CANNOT_UNDERSTAND: Final = 0xC000

_MEANINGS: Final[Mapping[int, str]] = {
    PROCESSING_FAILURE: "processing failure",
    NO_SUCH_OBJECT_INSTANCE: "no such object instance",
    CLASS_INSTANCE_CONFLICT: "class and instance conflict",
    SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    NOT_AUTHORISED: "not authorised",
    DUPLICATE_TRANSACTION_UID: "duplicate transaction UID",
    UNRECOGNIZED_OPERATION: "unrecognised operation",
    RESOURCE_LIMITATION: "resource limitation",
    0xA701: "out of resources, cannot count the matches",
    0xA702: "out of resources, cannot perform sub-operations",
    0xA801: "it does not know our AE title as a move destination",
    0xA900: "the identifier does not match the SOP class",
}


def status_meaning(status: int) -> str:
    """The Standard's words for a status or failure reason, "" where this node knows none."""
    return _MEANINGS.get(status, "")


def status_words(status: int) -> str:
    """The status in hexadecimal, with its meaning where that is known: "0122H (SOP class not supported)"."""
    meaning = status_meaning(status)
    return f"{status:04X}H{f' ({meaning})' if meaning else ''}"
