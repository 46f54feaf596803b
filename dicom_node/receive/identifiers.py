"""Small data sets of DIMSE messages: identifiers, action and event information, decoded and encoded by pydicom."""

from __future__ import annotations

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.dicom.read import read_data_set
from dicom_node.errors import UnreadableObjectError
from dicom_node.receive.upper_layer.services import Request
from dicom_node.receive.upper_layer.sinks import MAX_MEMORY_BYTES, MemorySink


class UnreadableError(Exception):
    """The bytes are no data set."""


def decode_data_set(request: Request) -> Dataset:
    """The data set of a request, without what cannot be read of it. Raises UnreadableError."""
    if not isinstance(request.data, MemorySink):
        raise UnreadableError("the request has no data set")
    if request.data.is_cut:
        raise UnreadableError(f"above {MAX_MEMORY_BYTES} bytes")
    try:
        return read_data_set(bytes(request.data.data), request.context.transfer_syntax)
    except UnreadableObjectError as error:
        raise UnreadableError(str(error)) from error


def encode_data_set(data_set: Dataset, transfer_syntax: str) -> bytes:
    """A data set of ours in the syntax of its presentation context."""
    stream = DicomBytesIO()
    stream.is_implicit_VR = transfer_syntax == ImplicitVRLittleEndian
    stream.is_little_endian = transfer_syntax != ExplicitVRBigEndian
    write_dataset(stream, data_set)
    return stream.getvalue()
