"""The pages of retraining: all runs, and the decision on one with its figures, plots and model card."""

from __future__ import annotations

from markupsafe import Markup
from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from dicom_node.index.tables.retrain import RetrainRun
from dicom_node.retrain.file_names import BODY_FILE, CARD_FILE
from dicom_node.retrain.types import folders_of
from dicom_node.web.rendering import render
from dicom_node.web.routing import Call, Rule

SHOWN = 100


def run_list(call: Call) -> Response:
    """The newest runs and how they ended."""
    with call.node.database.read() as session:
        runs = list(session.scalars(select(RetrainRun).order_by(RetrainRun.id.desc()).limit(SHOWN)))
        counts = {run.id: dict(run.snapshot.counts) for run in runs}
        session.expunge_all()
    return render(call.request, "retraining.html", user=call.user, runs=runs, counts=counts)


def run_page(call: Call) -> Response:
    """One run: the decision as the evaluation wrote it, in this site's frame."""
    run = _run(call)
    return render(
        call.request, "retraining_run.html", user=call.user, run=run, body=Markup(_file(call, run, BODY_FILE))
    )


def card(call: Call) -> Response:
    """The model card, Markdown."""
    text = _file(call, _run(call), CARD_FILE)
    if not text:
        raise HTTPException(404, "this run has no model card yet")
    return PlainTextResponse(text, media_type="text/markdown; charset=utf-8")


def _run(call: Call) -> RetrainRun:
    """The run that the path names. A name is only ever looked up in the index, so none of the wire's becomes a path."""
    with call.node.database.read() as session:
        name = call.request.path_params["name"]
        run = session.scalars(select(RetrainRun).where(RetrainRun.name == name)).one_or_none()
        session.expunge_all()
    if run is None:
        raise HTTPException(404, "no such run")
    return run


def _file(call: Call, run: RetrainRun, name: str) -> str:
    """The evaluation's text; "" where it did not come so far."""
    path = folders_of(call.node).runs / run.name / name
    return path.read_text("utf-8") if path.is_file() else ""


RULES = (
    Rule(path="/models/runs", view=run_list),
    Rule(path="/models/runs/{name}", view=run_page),
    Rule(path="/models/runs/{name}/card", view=card),
)
