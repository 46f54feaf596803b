"""The reading report as a PDF page, encapsulated (PS3.3 A.45.1), for archives that show no SR.

fpdf2 is LGPL-3.0: used as an unchanged library beside ours, which Apache-2.0 allows; nothing of it is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

from fpdf import FPDF
from pydicom.uid import EncapsulatedPDFStorage

from dicom_node.report import codes
from dicom_node.report.patient import CleanHeader, name_text
from dicom_node.report.render.fonts import PLACEHOLDER, Face, faces, first_with, showable
from dicom_node.report.render.pair_picture import pair_picture
from dicom_node.report.request import BuiltDocument, DocumentKind, ReportRequest
from dicom_node.report.sr.iod import common, finish_document, referenced_sources
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.dates import date_text
from dicom_node.report.wording.sections import sections

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
    return finish_document(ds, DocumentKind.PDF)


def pdf_bytes(request: ReportRequest, header: CleanHeader) -> bytes:
    """A4. The same request on a machine with the same fonts gives the same bytes.

    What the machine's fonts cannot show stands as a placeholder, and the page says so in its own words at the end.
    """
    words = catalogue(request.language)
    page = _Page(() if _is_latin(request, header) else faces())
    page.pdf.set_creation_date(request.produced_at)
    page.pdf.set_title(words.text("title.report"))
    page.line(words.text("title.report"), size=15, bold=True)
    if request.model.demonstration:
        page.line(words.text("origin.demonstration_mark"), size=11, bold=True)
    patient = header.elements
    parts = (name_text(str(patient.PatientName)), str(patient.PatientID), str(patient.AccessionNumber))
    page.line("  ".join(part for part in parts if part))
    page.line(f"{words.text('title.current')}: {date_text(request.current, words)}")
    if request.prior is not None:
        page.line(f"{words.text('title.prior')}: {date_text(request.prior, words)}")
    for number, section in enumerate(sections(request)):
        page.gap()
        page.line(words.text(f"heading.{section.key.value}"), size=11, bold=True)
        for sentence in section.sentences:
            page.line(f"- {sentence}")
        if number == 0:
            page.gap()
            page.pdf.image(pair_picture(request), w=page.pdf.epw)
    if page.missing:
        page.gap()
        page.line(words.text("limitations.characters", count=page.missing, placeholder=PLACEHOLDER))
    return bytes(page.pdf.output())


def _is_latin(request: ReportRequest, header: CleanHeader) -> bool:
    """Tell whether the standard PDF fonts will do: reading and cutting font files to size takes a second or two."""
    patient = header.elements
    texts = [str(patient.PatientName), str(patient.PatientID), str(patient.AccessionNumber)]
    texts += [sentence for section in sections(request) for sentence in section.sentences]
    return not showable("".join(texts), ())[1]


class _Page:
    """A page that is written line by line and counts what it could not show."""

    def __init__(self, fonts: Sequence[Face]) -> None:
        self.pdf = FPDF(format="A4")
        self.missing = 0
        self._fonts = fonts
        self._family = "Helvetica"
        self.pdf.set_producer("dicom-node")
        self.pdf.set_margin(_MARGIN)
        self.pdf.set_auto_page_break(True, _MARGIN)
        self.pdf.add_page()
        self._added: set[int] = set()

    def line(self, text: str, *, size: int = 10, bold: bool = False) -> None:
        shown, missing = showable(text, self._fonts)
        self.missing += missing
        self._add_fonts(shown)
        self.pdf.set_font(self._family, style="B" if bold else "", size=size)
        self.pdf.multi_cell(0, _LINE * size / 10, shown, align="L", new_x="LMARGIN", new_y="NEXT")

    def _add_fonts(self, text: str) -> None:
        """Load the faces that this text needs, the first one always."""
        needed = {first_with(character, self._fonts) for character in text if character != "\n"} | {0}
        for number in sorted(needed - self._added) if self._fonts else ():
            face = self._fonts[number]
            self.pdf.add_font(f"face{number}", "", face.regular)
            self.pdf.add_font(f"face{number}", "B", face.bold)
            self._added.add(number)
        if self._added:
            self._family = "face0"
            others = [f"face{number}" for number in sorted(self._added - {0})]
            self.pdf.set_fallback_fonts(others, exact_match=False)

    def gap(self) -> None:
        self.pdf.ln(2)
