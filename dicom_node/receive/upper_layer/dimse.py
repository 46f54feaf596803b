"""DIMSE command sets (PS3.7 chapter 9, 10 and annex E): read from implicit VR little endian, written to it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from dicom_node.receive.upper_layer.pdu import ProtocolError

NO_DATA_SET: Final = 0x0101
MAX_COMMAND_BYTES: Final = 65_536
_MAX_COMMENT: Final = 64


class CommandField(IntEnum):
    """PS3.7 table E.1-1, what this node receives or sends."""

    C_STORE_RQ = 0x0001
    C_FIND_RQ = 0x0020
    C_ECHO_RQ = 0x0030
    C_CANCEL_RQ = 0x0FFF
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_ACTION_RQ = 0x0130


RESPONSE_BIT: Final = 0x8000

AFFECTED_SOP_CLASS_UID = 0x0002
REQUESTED_SOP_CLASS_UID = 0x0003
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_RESPONDED_TO = 0x0120
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000
REQUESTED_SOP_INSTANCE_UID = 0x1001
EVENT_TYPE_ID = 0x1002
ACTION_TYPE_ID = 0x1008
MOVE_ORIGINATOR = 0x1030

_UIDS = frozenset(
    (AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID)
)


@dataclass(frozen=True, slots=True)
class Command:
    """A received command set: element number in group 0000 → value's bytes."""

    elements: Mapping[int, bytes]

    def number(self, element: int) -> int:
        """A US. Raises ProtocolError where it is missing."""
        value = self.elements.get(element, b"")
        if len(value) != 2:
            raise ProtocolError(f"a command without (0000,{element:04X})")
        return int.from_bytes(value, "little")

    def text(self, element: int) -> str:
        """A UI or AE without padding; "" where missing. May hold anything that a peer can send."""
        return self.elements.get(element, b"").decode("ascii", "replace").strip("\x00 ")

    @property
    def field(self) -> int:
        return self.number(COMMAND_FIELD)

    @property
    def message_id(self) -> int:
        return self.number(MESSAGE_ID)

    @property
    def has_data_set(self) -> bool:
        return self.number(DATA_SET_TYPE) != NO_DATA_SET


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to send: element number → value (int for US, str for UI, AE, LO), and a data set or none."""

    context_id: int
    elements: Mapping[int, int | str]
    data_set: bytes | None = None


def decode_command(data: bytes | bytearray) -> Command:
    """A command set. Raises ProtocolError where it is none."""
    elements: dict[int, bytes] = {}
    position = 0
    # Command sets are implicit VR little endian whatever the presentation context has agreed on (PS3.7 section 6.3.1).
    while position < len(data):
        if position + 8 > len(data):
            raise ProtocolError("a command set that ends inside an element")
        group, element, length = struct.unpack_from("<HHI", data, position)
        end = position + 8 + length
        if group != 0 or end > len(data):
            raise ProtocolError("a command set with an element that is none")
        elements[element] = bytes(data[position + 8 : end])
        position = end
    command = Command(elements)
    command.number(COMMAND_FIELD)
    command.number(DATA_SET_TYPE)
    return command


def encode_command(elements: Mapping[int, int | str], *, has_data_set: bool) -> bytes:
    """The bytes of a command set, with group length and data set type."""
    complete = {**elements, DATA_SET_TYPE: 0x0001 if has_data_set else NO_DATA_SET}
    body = b"".join(_encode_element(element, complete[element]) for element in sorted(complete))
    # Command Group Length (0000,0000) counts the bytes that follow it, itself excluded (PS3.7 section E.1).
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def response(command: Command, context_id: int, status: int, comment: str = "") -> Message:
    """The response to a request, with what both have in common. The comment is cut to an LO."""
    elements: dict[int, int | str] = {
        COMMAND_FIELD: command.field | RESPONSE_BIT,
        MESSAGE_ID_RESPONDED_TO: command.message_id,
        STATUS: status,
    }
    # Requests of DIMSE-N name the "requested" SOP; their responses call the same the "affected" one (PS3.7 10.3).
    for asked, answered in (
        (AFFECTED_SOP_CLASS_UID, AFFECTED_SOP_CLASS_UID),
        (AFFECTED_SOP_INSTANCE_UID, AFFECTED_SOP_INSTANCE_UID),
        (REQUESTED_SOP_CLASS_UID, AFFECTED_SOP_CLASS_UID),
        (REQUESTED_SOP_INSTANCE_UID, AFFECTED_SOP_INSTANCE_UID),
    ):
        if value := command.text(asked):
            elements[answered] = value[:64]
    for element in (EVENT_TYPE_ID, ACTION_TYPE_ID):
        if element in command.elements:
            elements[element] = command.number(element)
    if comment:
        elements[ERROR_COMMENT] = comment[:_MAX_COMMENT]
    return Message(context_id=context_id, elements=elements)


def _encode_element(element: int, value: int | str) -> bytes:
    if isinstance(value, int):
        data = struct.pack("<H", value)
    else:
        data = value.encode("ascii", "replace")
        # Even length (PS3.5 7.1.1): UIDs are padded with NUL, text with a blank. Command sets are always Implicit VR
        # Little Endian (PS3.7 6.3.1).
        if len(data) % 2:
            data += b"\x00" if element in _UIDS else b" "
    return struct.pack("<HHI", 0, element, len(data)) + data
