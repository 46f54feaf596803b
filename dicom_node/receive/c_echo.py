"""C-ECHO (PS3.4 annex A)."""

from __future__ import annotations

from collections.abc import Iterator

from dicom_node.dicom.dimse_status import SOP_CLASS_NOT_SUPPORTED, SUCCESS
from dicom_node.receive.upper_layer.dimse import Message, response
from dicom_node.receive.upper_layer.negotiation import VERIFICATION
from dicom_node.receive.upper_layer.services import Request


def handle_echo(request: Request) -> Iterator[Message]:
    """Say that we are here."""
    status = SUCCESS if request.context.abstract_syntax == VERIFICATION else SOP_CLASS_NOT_SUPPORTED
    yield response(request.command, request.context.context_id, status)
