"""Small data sets of DIMSE messages: identifiers, action and event information, decoded and encoded by pydicom."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.receive.upper_layer.association import Request
from dicom_node.receive.upper_layer.sinks import MemorySink


class UnreadableError(Exception):
    """The bytes are no data set, or hold values that are not what their VR says."""


def decoded_data_set(request: Request) -> Dataset:
    """The data set of a request, every value converted now. Raises UnreadableError."""
    if not isinstance(request.data, MemorySink):
        raise UnreadableError("the request has no data set")
    syntax = request.context.transfer_syntax
    try:
        data_set = read_dataset(
            BytesIO(bytes(request.data.data)),
            is_implicit_VR=syntax == ImplicitVRLittleEndian,
            is_little_endian=syntax != ExplicitVRBigEndian,
        )
        # Values are converted when they are first looked at: look at all, so that nothing raises later.
        data_set.walk(lambda _data_set, element: None)
    # What pydicom says with, in its own words, that a peer's bytes are not what they claim to be.
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError) as error:
        raise UnreadableError(type(error).__name__) from error
    except (NotImplementedError, RecursionError, struct.error, zlib.error) as error:
        raise UnreadableError(type(error).__name__) from error
    return data_set


def encoded_data_set(data_set: Dataset, transfer_syntax: str) -> bytes:
    """A data set of ours in the syntax of its presentation context."""
    stream = DicomBytesIO()
    stream.is_implicit_VR = transfer_syntax == ImplicitVRLittleEndian
    stream.is_little_endian = transfer_syntax != ExplicitVRBigEndian
    write_dataset(stream, data_set)
    return stream.getvalue()
