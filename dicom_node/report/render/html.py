"""The result as one self-contained HTML page with the pair picture inside; no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from dicom_node.report.patient import clean_header, name_text
from dicom_node.report.render.pair_picture import pair_picture
from dicom_node.report.request import ReportRequest
from dicom_node.report.wording.catalogue import catalogue
from dicom_node.report.wording.dates import date_text
from dicom_node.report.wording.sections import sections


@cache
def environment() -> Environment:
    """The templates of this package; everything that comes from a header or a model is escaped."""
    loader = PackageLoader("dicom_node.report", "templates")
    return Environment(loader=loader, autoescape=select_autoescape(), undefined=StrictUndefined)


def as_html(request: ReportRequest) -> str:
    """The page, as text to be written in UTF-8."""
    words = catalogue(request.language)
    patient = clean_header(request.current.header).elements
    facts = [(words.text("title.current"), date_text(request.current, words))]
    if request.prior is not None:
        facts.append((words.text("title.prior"), date_text(request.prior, words)))
    who = (("patient", name_text(str(patient.PatientName))), ("id", str(patient.PatientID)))
    facts += [(words.text(f"title.{name}"), value) for name, value in who if value]
    said = [
        {"key": s.key.value, "heading": words.text(f"heading.{s.key.value}"), "sentences": s.sentences}
        for s in sections(request)
    ]
    return (
        environment()
        .get_template("report.html")
        .render(
            language=words.language,
            title=words.text("title.report"),
            mark=words.text("origin.demonstration_mark") if request.model.demonstration else "",
            facts=facts,
            sections=said,
            picture=_embedded(request),
            picture_text=" ".join(said[0]["sentences"]),
        )
    )


def _embedded(request: ReportRequest) -> str:
    buffer = io.BytesIO()
    pair_picture(request).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
