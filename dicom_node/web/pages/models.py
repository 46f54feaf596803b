"""The pages of the models' life: champion, challengers, history, the shadow, drift; promotion and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from dicom_node.admin import model_listing
from dicom_node.config import Role
from dicom_node.drift import weekly as weeks
from dicom_node.drift.prognosis import CAME_TRUE
from dicom_node.errors import UsageError
from dicom_node.index.tables.models import ScheduledTraining, ShadowResult
from dicom_node.index.tables.retrain import RetrainRun
from dicom_node.retrain.scheduled_run import window_now
from dicom_node.serving import promotion as models
from dicom_node.serving import shadow
from dicom_node.serving import shadow_comparison as shadow_figures
from dicom_node.serving.status import history_lines, model_lines
from dicom_node.serving.workers import serving_lines
from dicom_node.web.rendering import render
from dicom_node.web.routing import Call, Rule
from dicom_node.weekly_window import next_window, parse_schedule, zone_of


def overview(call: Call) -> Response:
    """Who answers, who could, and what has happened."""
    node = call.node
    with node.database.read() as session:
        challenger = shadow.challenger(session, node.settings)
        values: dict[str, Any] = {
            "made": model_listing.models(session),
            "serving": serving_lines(session, node.clock()),
            "history": history_lines(session, limit=50),
            "night": session.scalars(
                select(ScheduledTraining).order_by(ScheduledTraining.begins_at.desc()).limit(1)
            ).one_or_none(),
            "runs": {
                run.challenger: run.name
                for run in session.execute(select(RetrainRun.challenger, RetrainRun.name).order_by(RetrainRun.id))
            },
            "shadowed": sorted(set(session.scalars(select(ShadowResult.folder).distinct()))),
        }
        session.expunge_all()
    lines = model_lines(node, shadow=challenger)
    return render(
        call.request,
        "models.html",
        user=call.user,
        models=lines,
        challenger=challenger,
        schedule=_schedule(call),
        settings=node.settings.model,
        done=call.text("done")[:200],
        **values,
    )


def _schedule(call: Call) -> str:
    """The next step of the schedule, in words; "" where there is none."""
    settings, now = call.node.settings.retrain, call.node.clock()
    if not settings.schedule:
        return ""
    window = window_now(settings, now)
    if window is not None:
        return f"the window {settings.schedule} is open until {window.ends_at:%Y-%m-%d %H:%M} UTC"
    following = next_window(parse_schedule(settings.schedule), now, zone_of(settings.timezone))
    return f"the next window of {settings.schedule} opens {following.begins_at:%Y-%m-%d %H:%M} UTC"


def promote(call: Call) -> Response:
    """Make a checkpoint the champion."""
    name = call.form.get("folder", "")
    with _refusals():
        models.promote(call.node, name, who=call.who.name, reason=call.form.get("reason", "")[:500])
    return _done(f"{name} is the champion; running workers follow as soon as it is loaded")


def rollback(call: Call) -> Response:
    """Back to the champion before this one."""
    with _refusals():
        models.rollback(call.node, who=call.who.name, reason=call.form.get("reason", "")[:500])
    return _done(f"{models.champion(call.node.models_dir) or 'the configured model'} answers again")


def choose_shadow(call: Call) -> Response:
    """Put a checkpoint into the shadow, or none."""
    name = call.form.get("folder", "")
    if not name:
        raise UsageError("folder: name a checkpoint, off or default")
    with _refusals():
        chosen = shadow.choose(call.node, name, who=call.who.name)
    return _done(f"{chosen} runs in the shadow" if chosen else "nothing runs in the shadow")


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn refusals of the models into the caller's mistake, not a failure of the node."""
    try:
        yield
    except models.ModelsError as error:
        raise HTTPException(400, str(error)) from error


def _done(text: str) -> Response:
    return RedirectResponse(f"/models?done={quote(text)}", 303)


def disagreements(call: Call) -> Response:
    """Where a challenger says something else than the reports did."""
    name = str(call.request.path_params["name"])
    with call.node.database.read() as session:
        summary, lines = shadow_figures.summary(session, name), shadow_figures.disagreements(session, name, limit=200)
    return render(call.request, "disagreements.html", user=call.user, name=name, summary=summary, lines=lines)


def drift(call: Call) -> Response:
    """The weekly figures against their limits."""
    with call.node.database.read() as session:
        rows = weeks.latest(session, call.number("weeks", 4, least=1, most=104))
        session.expunge_all()
    foretold = [row for row in rows if row.figure.startswith(CAME_TRUE)]
    lines = [(row, weeks.source_of(row)) for row in rows if not row.figure.startswith(CAME_TRUE)]
    prognoses = [(row, row.figure.removeprefix(CAME_TRUE).removeprefix(", stated ") or "all") for row in foretold]
    return render(
        call.request,
        "drift.html",
        user=call.user,
        lines=lines,
        prognoses=prognoses,
        settings=call.node.settings.drift,
    )


RULES = (
    Rule(path="/models", view=overview),
    Rule(path="/models/promote", view=promote, methods=("POST",), role=Role.ADMINISTRATOR),
    Rule(path="/models/rollback", view=rollback, methods=("POST",), role=Role.ADMINISTRATOR),
    Rule(path="/models/shadow", view=choose_shadow, methods=("POST",), role=Role.ADMINISTRATOR),
    Rule(path="/models/{name}/disagreements", view=disagreements),
    Rule(path="/drift", view=drift),
)
