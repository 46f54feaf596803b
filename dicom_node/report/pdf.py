"""The reading report as a PDF page, encapsulated (PS3.3 A.45.1), for archives that show no SR.

fpdf2 is LGPL-3.0: used as an unchanged library beside ours, which Apache-2.0 allows; nothing of it is copied.
"""

from __future__ import annotations

from fpdf import FPDF
from pydicom.uid import EncapsulatedPDFStorage

from dicom_node.report import codes
from dicom_node.report.catalogue import catalogue
from dicom_node.report.header import CleanHeader
from dicom_node.report.iod import common, finished, referenced_sources
from dicom_node.report.picture import pair_picture
from dicom_node.report.request import BuiltDocument, DocumentKind, ReportRequest
from dicom_node.report.statements import date_text, sections

_MARGIN, _LINE = 18, 5.2  # millimetres


def pdf_document(request: ReportRequest, header: CleanHeader) -> BuiltDocument:
    """The page, with the patient on it, as an Encapsulated PDF."""
    ds = common(request, header, DocumentKind.PDF, EncapsulatedPDFStorage, "full")
    ds.ConversionType = "SYN"
    ds.AcquisitionDateTime = ""
    ds.BurnedInAnnotation = "YES"
    ds.DocumentTitle = catalogue(request.language).text("title.report")
    ds.VerificationFlag = "UNVERIFIED"
    ds.ConceptNameCodeSequence = [codes.concept("title.reading")]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    sources = referenced_sources(request)
    if sources:
        ds.SourceInstanceSequence = sources
    content = pdf_bytes(request, header)
    ds.EncapsulatedDocumentLength = len(content)
    ds.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return finished(ds, DocumentKind.PDF)


def pdf_bytes(request: ReportRequest, header: CleanHeader) -> bytes:
    """A4, the standard PDF fonts, so that no font file is needed; the same request gives the same bytes."""
    words = catalogue(request.language)
    page = FPDF(format="A4")
    page.set_creation_date(request.produced_at)
    page.set_producer("dicom-node")
    page.set_title(_latin(words.text("title.report")))
    page.set_margin(_MARGIN)
    page.set_auto_page_break(True, _MARGIN)
    page.add_page()
    _line(page, words.text("title.report"), size=15, style="B")
    if request.model.demonstration:
        _line(page, words.text("origin.demonstration_mark"), size=11, style="B")
    patient = header.elements
    name = str(patient.PatientName).split("=")[0].replace("^", " ")
    _line(page, "  ".join(part for part in (name, str(patient.PatientID), str(patient.AccessionNumber)) if part))
    _line(page, f"{words.text('title.current')}: {date_text(request.current, words)}")
    if request.prior is not None:
        _line(page, f"{words.text('title.prior')}: {date_text(request.prior, words)}")
    for number, section in enumerate(sections(request)):
        page.ln(2)
        _line(page, words.text(f"heading.{section.key.value}"), size=11, style="B")
        for sentence in section.sentences:
            _line(page, f"- {sentence}")
        if number == 0:
            page.ln(2)
            page.image(pair_picture(request), w=page.epw)
    return bytes(page.output())


def _line(page: FPDF, text: str, *, size: int = 10, style: str = "") -> None:
    page.set_font("Helvetica", style=style, size=size)
    page.multi_cell(0, _LINE * size / 10, _latin(text), new_x="LMARGIN", new_y="NEXT")


def _latin(text: str) -> str:
    """The standard PDF fonts know Latin-1 only; names of other scripts stand whole in the object's header."""
    return text.encode("latin-1", "replace").decode("latin-1")
