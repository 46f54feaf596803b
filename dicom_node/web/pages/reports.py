"""A stored report as one page, as a PDF and its pair picture, made when somebody asks; each look is audited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from dicom_node.index.tables.core import Result, Study
from dicom_node.web.pages.worklist import audit_access
from dicom_node.web.routing import Call, Rule

if TYPE_CHECKING:
    from dicom_node.analysis.rendering import StoredReport

# Drawing is imported where a report is asked for: it brings pillow and the report writer, some 40 MB, into a process
# that most days shows lists.

REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'; sandbox"
)
"""The report brings its style and picture inside it, so that it is whole when it is saved; no script can run."""


def report(call: Call) -> Response:
    """The report as `dicom-node analyze` writes it."""
    from dicom_node.analysis.rendering import page_of

    page = page_of(call.node, _find_report(call))
    return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})


def pair(call: Call) -> Response:
    """The pair picture of the report."""
    from dicom_node.analysis.rendering import picture_of

    return Response(picture_of(call.node, _find_report(call)), media_type="image/jpeg")


def pdf(call: Call) -> Response:
    """The report as PDF pages, with the patient's name in the browser's file name left out."""
    from dicom_node.analysis.rendering import pdf_of

    stored = _find_report(call)
    name = f"report-{call.request.path_params['result_id']}.pdf"
    return Response(
        pdf_of(call.node, stored),
        media_type="application/pdf",
        headers={"Content-Disposition": f'inline; filename="{name}"'},
    )


def _find_report(call: Call) -> StoredReport:
    from dicom_node.analysis.rendering import load_report

    given = str(call.request.path_params["result_id"])
    if not (given.isascii() and given.isdigit() and len(given) < 19):
        raise HTTPException(404, "no such result")
    with call.node.database.read() as session:
        study = session.scalar(select(Study).join(Result, Result.study_pk == Study.id).where(Result.id == int(given)))
        session.expunge_all()  # the values outlive the session
    if study is None:
        raise HTTPException(404, "no such result")
    audit_access(call, study)
    stored = load_report(call.node, int(given))
    if stored is None:
        raise HTTPException(404, "the report of this result is no longer kept here; the archive has its documents")
    return stored


RULES = (
    Rule(path="/results/{result_id}/report.html", view=report),
    Rule(path="/results/{result_id}/pair.jpg", view=pair),
    Rule(path="/results/{result_id}/report.pdf", view=pdf),
)
