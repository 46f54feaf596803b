"""A-ASSOCIATE PDUs of sloppy and of newer peers: what DCMTK takes is made what pynetdicom decodes."""

from __future__ import annotations

import struct

import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import MaximumLengthNotification

from dicom_node.dicom.associate_pdu import accept_odd_associate_acs, normalise_associate_pdu


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def _pdu(
    kind: int, *, sub_items: bytes = b"", tail: bytes = b"", called: bytes = b"LUMEN", maximum: bool = True
) -> bytes:
    context = struct.pack(">BBBB", 1, 0, 0, 0) + _item(0x40, b"1.2.840.10008.1.2")
    if kind == 1:
        context = struct.pack(">BBBB", 1, 0, 0, 0) + _item(0x30, b"1.2.840.10008.1.1") + context[4:]
    user = (_item(0x51, struct.pack(">I", 16384)) if maximum else b"") + _item(0x52, b"1.2.3.4") + sub_items
    titles = called.ljust(16, b" ") + b"PEER".ljust(16, b" ")
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + _item(0x10, b"1.2.840.10008.3.1.1.1")
    body += _item(0x20 if kind == 1 else 0x21, context) + _item(0x50, user) + tail
    return struct.pack(">BBI", kind, 0, len(body)) + body


ODD = {
    "unknown sub-item": {"sub_items": _item(0x60, b"abc")},
    "unknown item": {"tail": _item(0x70, b"abc")},
    "version name of 20": {"sub_items": _item(0x55, b"V" * 20)},
    "version name empty": {"sub_items": _item(0x55, b"")},
    "AE title padded with NUL": {"called": b"LUMEN" + bytes(11)},
    "AE title with control characters": {"called": b"LUMEN\r\n"},
    "AE title blank": {"called": b""},
    "no maximum length": {"maximum": False},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_request_is_what_pynetdicom_decodes(name: str) -> None:
    request = A_ASSOCIATE_RQ()
    request.decode(normalise_associate_pdu(_pdu(1, **ODD[name])))  # type: ignore[arg-type]
    asked = request.to_primitive()
    assert [str(one.abstract_syntax) for one in asked.presentation_context_definition_list] == ["1.2.840.10008.1.1"]


@pytest.mark.parametrize("name", ODD)
def test_odd_acceptance_is_read_as_requestor(name: str) -> None:
    accept_odd_associate_acs()
    answer = A_ASSOCIATE_AC()
    answer.decode(_pdu(2, **ODD[name]))  # type: ignore[arg-type]
    items = answer.to_primitive().user_information
    assert any(isinstance(item, MaximumLengthNotification) for item in items)


def test_pdu_whose_items_do_not_fit_is_left_as_it_is() -> None:
    broken = _pdu(1)[:-3]
    assert normalise_associate_pdu(broken) == broken
