"""Documents of a result. No input stops one: full report, else its text, else one sentence that says why not."""

from __future__ import annotations

from collections.abc import Callable, Collection

from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, EnhancedSRStorage

from dicom_node.report.patient import UNREADABLE, CleanHeader, clean_header
from dicom_node.report.request import BuiltDocument, DocumentKind, ReportRequest
from dicom_node.report.sr.iod import sr_document
from dicom_node.report.sr.machine import machine_content
from dicom_node.report.sr.narrative import reading_content, report_content
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.sections import ReportSection, SectionKey, origin

_Maker = Callable[[ReportRequest, CleanHeader], BuiltDocument]


def _pdf(request: ReportRequest, header: CleanHeader) -> BuiltDocument:
    from dicom_node.report.render.pdf import pdf_document  # fpdf2, its fonts and pillow: only where a site asks for it

    return pdf_document(request, header)


def _capture(request: ReportRequest, header: CleanHeader) -> BuiltDocument:
    from dicom_node.report.render.secondary_capture import capture_document  # as above

    return capture_document(request, header)


_EXTRA: dict[DocumentKind, _Maker] = {DocumentKind.PDF: _pdf, DocumentKind.CAPTURE: _capture}

STANDARD_KINDS = frozenset({DocumentKind.MACHINE, DocumentKind.READING})


def build_documents(
    request: ReportRequest, kinds: Collection[DocumentKind] = STANDARD_KINDS
) -> tuple[BuiltDocument, ...]:
    """The reading report first, then the other kinds asked for that could be made; never raises on what it is given.

    A document of a lower rung has another SOP Instance UID than the full one: its content differs.
    """
    header = clean_header(request.current.header)
    reading, is_whole = _reading(request, header)
    built = [reading]
    if not is_whole:
        return tuple(built)  # beside "no result" nothing else may stand that states one
    if DocumentKind.MACHINE in kinds:
        try:
            content = machine_content(request)
            built.append(sr_document(request, header, DocumentKind.MACHINE, Comprehensive3DSRStorage, content, "full"))
        except UNREADABLE as error:
            # The coded document cannot be had; the text one, which is whole, then says so.
            built = [_reading(request, header, because=error)[0]]
    for kind, make in _EXTRA.items():
        if kind in kinds:
            built += _extra(make, request, header)
    return tuple(built)


def _extra(make: _Maker, request: ReportRequest, header: CleanHeader) -> list[BuiltDocument]:
    """A picture or page of the result; the reading report stands whole without it."""
    try:
        return [make(request, header)]
    except (*UNREADABLE, OSError):  # OSError: pillow and fpdf2 raise it for pictures that they cannot write
        return []


def _reading(
    request: ReportRequest, header: CleanHeader, because: Exception | None = None
) -> tuple[BuiltDocument, bool]:
    """The reading report, and whether it says what the result says."""
    rung = "full" if because is None else "text"
    try:
        content = reading_content(request)
    except UNREADABLE as error:
        content, rung = _no_result(request, error), "no result"
    return sr_document(request, header, DocumentKind.READING, EnhancedSRStorage, content, rung), rung != "no result"


def _no_result(request: ReportRequest, error: Exception) -> Dataset:
    """The last rung: one sentence with the reason, and who made it."""
    words = catalogue(request.language)
    reason = f"{words.text('no_result.unwritten')} ({type(error).__name__}: {error})"
    sentences = (
        ReportSection(key=SectionKey.IMPRESSIONS, sentences=(words.text("no_result.impression", reason=reason),)),
        ReportSection(key=SectionKey.ORIGIN, sentences=origin(request, words)),
    )
    return report_content(request, sentences)
