"""JPEG Extended with twelve bits (transfer syntax …1.2.4.51), which no plugin of pydicom decodes: GDCM does.

pydicom hands such frames to nobody (its GDCM plugin refuses them); the values that GDCM gives are those of DCMTK, which
the tests compare.
"""

from __future__ import annotations

import gdcm
from pydicom.pixels.decoders.base import DecodeRunner, get_decoder
from pydicom.uid import UID, JPEGExtended12Bit

DECODER_DEPENDENCIES = {JPEGExtended12Bit: ("gdcm>=3.0.10",)}
"""Part of pydicom's plugin interface, like the next two."""
_LABEL = "gdcm, twelve bits"


def is_available(uid: UID) -> bool:
    """For this one syntax; GDCM is among our dependencies."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """The decoded frame, little endian, two bytes a sample. Raises ValueError where GDCM gives something else."""
    if runner.bits_allocated != 16 or runner.samples_per_pixel != 1:
        raise ValueError("JPEG Extended of more than eight bits is decoded for one sample in two bytes only")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(source)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((runner.columns, runner.rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str.__str__(JPEGExtended12Bit))))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, runner.pixel_representation))
    frame: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM gives its bytes as text
    if len(frame) != 2 * runner.rows * runner.columns:
        raise ValueError(f"GDCM gave {len(frame)} bytes for {runner.rows} × {runner.columns} samples")
    return frame


def install() -> None:
    """Tell pydicom; once is enough, more does no harm."""
    decoder = get_decoder(JPEGExtended12Bit)
    if _LABEL not in decoder.available_plugins:
        decoder.add_plugin(_LABEL, (__name__, "decode_frame"))
