"""Answers to association requests that came before: a modality asks with the same bytes each time.

To decode a request for 128 presentation contexts, judge it and encode the answer takes as long as the receiving of
twenty small images, and the answer depends on nothing but the bytes, the caller's rule and this node's own limits.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from dicom_node.receive.upper_layer.access_rules import PeerRule, Rejection
from dicom_node.receive.upper_layer.negotiation import Negotiated, negotiate

REMEMBERED: Final = 32
MAX_REMEMBERED_BYTES: Final = 32 << 10
"""A longer request is answered and forgotten, so that strangers fill no memory; 128 usual contexts have 20 KiB."""


@dataclass(slots=True, eq=False)
class _Question:
    """One request by one rule, and its answer once somebody has worked it out."""

    guard: threading.Lock = field(default_factory=threading.Lock)
    answer: Negotiated | Rejection | None = None


class NegotiationMemory:
    """The newest questions with their answers. From any thread."""

    def __init__(self, *, max_pdu_bytes: int) -> None:
        self._max_pdu_bytes = max_pdu_bytes
        self._guard = threading.Lock()
        self._questions: OrderedDict[tuple[bytes, PeerRule], _Question] = OrderedDict()

    def negotiate(self, request: bytes, *, rule: PeerRule) -> Negotiated | Rejection:
        """Answer as `negotiation.negotiate` does. Raises ProtocolError as it does; an error is not remembered."""
        if len(request) > MAX_REMEMBERED_BYTES:
            return negotiate(request, rule=rule, max_pdu_bytes=self._max_pdu_bytes)
        with self._guard:
            question = self._questions.setdefault((request, rule), _Question())
            self._questions.move_to_end((request, rule))
            if len(self._questions) > REMEMBERED:
                self._questions.popitem(last=False)
        # Several associations of one sender begin at once: one of them works it out, and the others wait for it.
        with question.guard:
            if question.answer is None:
                question.answer = negotiate(request, rule=rule, max_pdu_bytes=self._max_pdu_bytes)
            return question.answer
