"""The printed report: what a terminal shows, opening with what changed."""

from __future__ import annotations

import textwrap

from dicom_node.report.patient import clean_header, name_text
from dicom_node.report.request import ReportRequest
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.dates import date_text
from dicom_node.report.wording.sections import sections

WIDTH = 80


def as_text(request: ReportRequest) -> str:
    """The whole report as lines of at most `WIDTH` characters, without markup, ending in a newline."""
    words = catalogue(request.language)
    patient = clean_header(request.current.header).elements
    who = "  ".join(part for part in (name_text(str(patient.PatientName)), str(patient.PatientID)) if part)
    title = words.text("title.report")
    lines = [title, "=" * len(title), f"{words.text('title.current')}: {date_text(request.current, words)}"]
    if request.prior is not None:
        lines.append(f"{words.text('title.prior')}: {date_text(request.prior, words)}")
    if who:
        lines.append(who)
    for section in sections(request):
        lines += ["", words.text(f"heading.{section.key.value}").upper()]
        for sentence in section.sentences:
            lines += textwrap.wrap(sentence, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False)
    return "\n".join(lines) + "\n"
