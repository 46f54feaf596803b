"""C-ECHO (PS3.4 annex A)."""

from __future__ import annotations

from collections.abc import Iterator

from dicom_node.receive.upper_layer.dimse import Message, response
from dicom_node.receive.upper_layer.negotiation import VERIFICATION
from dicom_node.receive.upper_layer.services import Request
from dicom_node.receive.upper_layer.statuses import NO_SUCH_SOP_CLASS, SUCCESS


def handle_echo(request: Request) -> Iterator[Message]:
    """Say that we are here."""
    status = SUCCESS if request.context.abstract_syntax == VERIFICATION else NO_SUCH_SOP_CLASS
    yield response(request.command, request.context.context_id, status)
