"""The failures that this node answers with, each with its comment (PS3.4 tables B.2-1 and C.4-1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dicom_node.dicom.dimse_status import NOT_AUTHORISED


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A status that is not success, with its error comment (at most 64 characters reach the peer)."""

    status: int
    comment: str


OUT_OF_SPACE: Final = Failure(status=0xA700, comment="Out of resources: disk")
STORE_AWAY: Final = Failure(status=0xA700, comment="Out of resources: the object store does not answer")
STORE_FAILED: Final = Failure(status=0xA701, comment="Out of resources: the instance store failed")
INDEX_FAILED: Final = Failure(status=0xA702, comment="Out of resources: the index does not answer")
CLASS_MISMATCH: Final = Failure(status=0xA900, comment="SOP class is not that of the presentation context")
REQUEST_MISMATCH: Final = Failure(status=0xA901, comment="Data set is not the object that the request names")
UNREADABLE: Final = Failure(status=0xC000, comment="Data set cannot be understood in its transfer syntax")
BAD_UID: Final = Failure(status=0xC001, comment="A UID of the object is not a UID")
CONFLICT: Final = Failure(status=0xC002, comment="Other content is held under this SOP Instance UID")
STUDY_MISMATCH: Final = Failure(status=0xC003, comment="Study or series belongs to another patient or study")
NOT_ALLOWED: Final = Failure(status=NOT_AUTHORISED, comment="This AE may not send rejection notes ([[receive.peers]])")
"""The Standard leaves the last two digits of A7xx, A9xx and Cxxx to the application (PS3.4 section B.2.3)."""

FIND_OUT_OF_RESOURCES: Final = Failure(status=0xA700, comment="The index does not answer")
FIND_MISMATCH: Final = Failure(status=0xA900, comment="Identifier does not match SOP class")
FIND_TOO_LONG: Final = Failure(status=0xC000, comment="Identifier above 64 KiB")
FIND_UNABLE: Final = Failure(status=0xC000, comment="Identifier cannot be understood")
