"""The pair picture as a Secondary Capture, for archives and viewers that show no SR."""

from __future__ import annotations

import numpy as np
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_node.report.patient import CleanHeader
from dicom_node.report.render.pair_picture import pair_picture
from dicom_node.report.request import BuiltDocument, DocumentKind, ReportRequest
from dicom_node.report.sr.iod import common, finish_document, referenced_sources


def capture_document(request: ReportRequest, header: CleanHeader) -> BuiltDocument:
    """8 bit RGB, PS3.3 A.8.1; derived, so that nobody takes it for an exposure."""
    pixels = np.asarray(pair_picture(request).convert("RGB"))
    ds = common(request, header, DocumentKind.CAPTURE, SecondaryCaptureImageStorage, "full")
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    ds.Laterality, ds.PatientOrientation = "", ""  # type 2C and 2: two films, no side of their own
    ds.BurnedInAnnotation = "YES"
    ds.RecognizableVisualFeatures = "NO"
    ds.LossyImageCompression = "00"
    ds.DerivationDescription = "Prior and current side by side, marked by software"
    ds.SourceImageSequence = referenced_sources(request)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.Rows, ds.Columns = pixels.shape[0], pixels.shape[1]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    content = pixels.tobytes()
    ds.PixelData = content + b"\0" * (len(content) % 2)  # PS3.5 section 8.1.1: even length
    if not ds.SourceImageSequence:
        del ds.SourceImageSequence
    return finish_document(ds, DocumentKind.CAPTURE)
