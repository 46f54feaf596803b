"""The report as PDF: on request from its kept values, and encapsulated (PS3.3 A.45.1) for archives that show no SR.

A typical result stands on one page; the patient and the page's number stand on each.

fpdf2 is LGPL-3.0: used as an unchanged library beside ours, which Apache-2.0 allows; nothing of it is copied.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fpdf import FPDF
from pydicom.uid import EncapsulatedPDFStorage

from dicom_node.report import codes
from dicom_node.report.patient import CleanHeader
from dicom_node.report.render.fonts import PLACEHOLDER, FontFace, faces, first_with, showable
from dicom_node.report.render.pair_picture import draw_pair
from dicom_node.report.render.shown import ShownReport, shown_report
from dicom_node.report.request import BuiltDocument, DocumentKind, ReportRequest
from dicom_node.report.sr.iod import common, finish_document, referenced_sources
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.sections import SectionKey
from model.schema import DisplayImage

if TYPE_CHECKING:
    from PIL import Image

_MARGIN, _HEAD, _FOOT = 15.0, 18.0, 14.0  # millimetres
_PICTURE_HEIGHTS = (92.0, 74.0, 58.0)
"""Millimetres, the largest first: the one with which the report fits on a page is taken, else the largest."""
_SIZE, _SMALL, _TITLE = 9.5, 7.5, 13.0  # points
_LINE = 0.45  # millimetres for each point
_SMALL_SECTIONS = frozenset({SectionKey.LIMITATIONS.value, SectionKey.ORIGIN.value})


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
    content = pdf_bytes(request)
    ds.EncapsulatedDocumentLength = len(content)
    ds.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return finish_document(ds, DocumentKind.PDF)


def pdf_bytes(request: ReportRequest) -> bytes:
    """The report of a request. The same request on a machine with the same fonts gives the same bytes."""
    prior = request.prior.image if request.prior is not None else None
    return pdf_of_shown(
        shown_report(request), prior=prior, current=request.current.image, produced_at=request.produced_at
    )


def pdf_of_shown(
    shown: ShownReport, *, prior: DisplayImage | None, current: DisplayImage | None, produced_at: dt.datetime
) -> bytes:
    """A4 pages of a kept report with its two images, None where one is not to be had any more.

    What the machine's fonts cannot show stands as a placeholder, and the page says so in its own words at the end.
    """
    picture = draw_pair(shown, prior=prior, current=current)
    pages = _Pages(shown, picture, _PICTURE_HEIGHTS[0], produced_at)
    # One page if a smaller picture makes it one; where none does, the picture stays as large as it was.
    for height in _PICTURE_HEIGHTS[1:]:
        if pages.page_no() == 1:
            break
        smaller = _Pages(shown, picture, height, produced_at)
        pages = smaller if smaller.page_no() == 1 else pages
    return bytes(pages.output())


class _Pages(FPDF):  # type: ignore[misc]  # fpdf2's own types are partial
    """A kept report as pages."""

    def __init__(self, shown: ShownReport, picture: Image.Image, height: float, produced_at: dt.datetime) -> None:
        super().__init__(format="A4")
        self._shown = shown
        self._words = catalogue(shown.language)
        facts = {fact.key: fact for fact in shown.facts}
        self._patient = "   ".join(facts[key].value for key in ("patient", "id", "accession") if key in facts)
        self._dates = [f"{facts[key].name}: {facts[key].value}" for key in ("current", "prior") if key in facts]
        self._foot = shown.mark or self._words.text("origin.unverified")
        self._missing = self._choose_fonts()
        # Not the present: the same report gives the same bytes.
        self.set_creation_date(produced_at)
        self.set_title(shown.title)
        self.set_producer("dicom-node")
        self.set_margins(_MARGIN, _HEAD, _MARGIN)
        self.set_auto_page_break(True, _FOOT + 2.0)
        self.add_page()
        self._write(picture, height)

    def header(self) -> None:
        """The patient and the dates of the images, on each page."""
        self.set_y(9.0)
        self._put(self._patient, _SIZE, bold=True)
        self.set_y(_HEAD)

    def footer(self) -> None:
        """The mark of the model, and the page's number, on each page."""
        self.set_y(-_FOOT + 2.0)
        self.set_font(self._family, size=_SMALL)
        self.cell(0, 4.0, self._shown_text(self._foot), align="L")
        self.set_x(_MARGIN)
        number = self._words.text("title.page", number=self.page_no(), count="{nb}")
        self.cell(0, 4.0, number, align="R")

    def _write(self, picture: Image.Image, height: float) -> None:
        self._put(self._shown.title, _TITLE, bold=True)
        if self._shown.mark:
            self._put(self._shown.mark, _SIZE, bold=True)
        self._put("   ".join(self._dates), _SIZE)
        for number, section in enumerate(self._shown.sections):
            size = _SMALL if section.key in _SMALL_SECTIONS else _SIZE
            self.ln(1.6)
            self._put(section.heading, size + 1.0, bold=True)
            for sentence in section.sentences:
                self._put(f"- {sentence}", size)
            if number == 0:
                self._put_picture(picture, height)
        if self._missing:
            self.ln(1.6)
            self._put(self._words.text("limitations.characters", count=self._missing, placeholder=PLACEHOLDER), _SMALL)

    def _put_picture(self, picture: Image.Image, height: float) -> None:
        self.ln(1.6)
        width = min(height * picture.width / picture.height, self.epw)
        self.image(picture, x=_MARGIN + (self.epw - width) / 2, w=width)

    def _put(self, text: str, size: float, *, bold: bool = False) -> None:
        self.set_font(self._family, style="B" if bold else "", size=size)
        self.multi_cell(0, _LINE * size, self._shown_text(text), align="L", new_x="LMARGIN", new_y="NEXT")

    def _shown_text(self, text: str) -> str:
        return showable(text, self._faces)[0]

    def _choose_fonts(self) -> int:
        """Load the faces that the report needs; returns how many of its characters none of them has.

        Reading and cutting font files to size takes a second or two, so the standard PDF fonts do where they can.
        """
        sentences = [sentence for section in self._shown.sections for sentence in section.sentences]
        headings = [section.heading for section in self._shown.sections]
        text = "".join((self._shown.title, self._foot, self._patient, *self._dates, *headings, *sentences))
        self._faces: Sequence[FontFace] = () if not showable(text, ())[1] else faces()
        self._family = "Helvetica"
        shown, missing = showable(text, self._faces)
        if self._faces:
            # Face 0 is the family of the document, needed even where another has all the characters.
            needed = {first_with(character, self._faces) for character in shown if character != "\n"} | {0}
            for number in sorted(needed):
                face = self._faces[number]
                self.add_font(f"face{number}", "", face.regular)
                self.add_font(f"face{number}", "B", face.bold)
            self._family = "face0"
            self.set_fallback_fonts([f"face{number}" for number in sorted(needed - {0})], exact_match=False)
        return missing
