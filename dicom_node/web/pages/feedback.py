"""The page of feedback: agreement between node and radiologists, and what is unmatched or contradictory."""

from __future__ import annotations

import datetime as dt

from starlette.exceptions import HTTPException
from starlette.responses import Response

from dicom_node.feedback import agreement
from dicom_node.feedback import consensus as opinions
from dicom_node.feedback import listing as feedback_listing
from dicom_node.index.tables.reports import ReportState
from dicom_node.web.rendering import render
from dicom_node.web.routing import Call, Rule
from model.ontology import ontology

WINDOWS = {"7": "last week", "30": "last 30 days", "365": "last year", "": "all time"}
DEFAULT_WINDOW = "30"


def feedback_page(call: Call) -> Response:
    """Agreement over a window of time, then the lists."""
    window = call.text("days", DEFAULT_WINDOW)
    if window not in WINDOWS:
        raise HTTPException(400, f"days must be one of: {', '.join(name or '(empty)' for name in WINDOWS)}")
    given = call.text("state")
    if given and given not in [state.value for state in ReportState]:
        raise HTTPException(400, f"state must be one of: {', '.join(ReportState)}")
    since = call.node.clock() - dt.timedelta(days=int(window)) if window else None
    with call.node.database.read() as session:
        judged = opinions.load(session, since=since)
        by_aspect = {aspect: agreement.figures(judged, since=since, aspect=aspect) for aspect in ("presence", "change")}
        states = (ReportState(given),) if given else feedback_listing.OPEN
        reports = feedback_listing.report_lines(session, states)
        contradictions = feedback_listing.contradiction_lines(session)
        counts = feedback_listing.report_counts(session)
    return render(
        call.request,
        "feedback.html",
        user=call.user,
        window=window,
        windows=WINDOWS,
        tables={
            aspect: [*by_finding.values(), agreement.overall(by_finding)] if by_finding else []
            for aspect, by_finding in by_aspect.items()
        },
        names={key: concept.name for key, concept in ontology().findings.items()},
        reports=reports,
        contradictions=contradictions,
        counts=counts,
        state=given,
        states=list(ReportState),
    )


RULES = (Rule(path="/feedback", view=feedback_page),)
