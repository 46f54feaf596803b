"""The result as one self-contained HTML page with the pair picture inside; no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from dicom_node.report.render.pair_picture import pair_jpeg
from dicom_node.report.render.shown import ShownReport, shown_report
from dicom_node.report.request import ReportRequest


@cache
def environment() -> Environment:
    """The templates of this package; everything that comes from a header or a model is escaped."""
    loader = PackageLoader("dicom_node.report", "templates")
    return Environment(loader=loader, autoescape=select_autoescape(), undefined=StrictUndefined)


def as_html(request: ReportRequest) -> str:
    """The page, as text to be written in UTF-8."""
    shown = shown_report(request)
    prior = request.prior.image if request.prior is not None else None
    return page_of_shown(shown, pair_jpeg(shown, prior=prior, current=request.current.image))


def page_of_shown(shown: ShownReport, jpeg: bytes) -> str:
    """The page of a kept report with its pair picture."""
    return (
        environment()
        .get_template("report.html")
        .render(
            language=shown.language,
            title=shown.title,
            mark=shown.mark,
            facts=[(fact.name, fact.value) for fact in shown.facts],
            sections=shown.sections,
            picture="data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii"),
            picture_text=" ".join(shown.sections[0].sentences),
        )
    )
