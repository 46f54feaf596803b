"""Requests and reports of storage commitment whose elements are not what the Standard says: refused in words."""

from __future__ import annotations

import struct

import pytest
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.deliver.commitment import read_report
from dicom_node.dicom.read import read_data_set
from dicom_node.errors import DeliveryError
from dicom_node.receive.identifiers import UnreadableError
from dicom_node.receive.storage_commitment import _read_request


def _element(tag: int, vr: str, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (struct.pack("<HL", 0, len(value)) if vr == "SQ" else struct.pack("<H", len(value))) + value


def _failed(reason: bytes) -> bytes:
    item = _element(0x00081155, "UI", b"1.2.3.") + reason
    return _element(0x00081198, "SQ", struct.pack("<HHL", 0xFFFE, 0xE000, len(item)) + item)


TRANSACTION = _element(0x00081195, "UI", b"1.2.33")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(TRANSACTION + _element(0x00081198, "LO", b"abcd"), id="text for the failed"),
        pytest.param(TRANSACTION + _element(0x00081199, "LO", b"abcd"), id="text for the committed"),
        pytest.param(TRANSACTION + _element(0x00081199, "US", b"\1\0"), id="a number for the committed"),
        pytest.param(TRANSACTION + _failed(_element(0x00081197, "US", b"\1\0\2\0")), id="two reasons"),
        pytest.param(TRANSACTION + _failed(_element(0x00081197, "LO", b"full")), id="a reason in words"),
        pytest.param(_element(0x00081195, "UI", b"1.2\x0033"), id="a transaction with a zero byte"),
        pytest.param(_element(0x00081195, "UI", b"1.2\\1.3 "), id="two transactions"),
    ],
)
def test_an_odd_report_or_request_is_refused(data: bytes) -> None:
    information = read_data_set(data, ExplicitVRLittleEndian)
    with pytest.raises(DeliveryError):
        read_report(information)
    with pytest.raises(UnreadableError):
        _read_request(information)
