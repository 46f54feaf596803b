"""Pausing and resuming a backfill from the Jobs page, as `dicom-node backfill pause` and `resume` do."""

from __future__ import annotations

from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from dicom_node.backfill import runs
from dicom_node.config import Role
from dicom_node.web.routing import Call, Rule


def change_backfill(call: Call) -> Response:
    """Pause or resume the run that the form names; its limits stay. Raises UsageError where its state forbids it."""
    name, action = call.form.get("run", ""), call.form.get("action", "")
    settings, now, who = call.node.settings, call.node.clock(), call.who.name
    with call.node.database.write() as session:
        if action == "pause":
            runs.pause_run(session, name, settings=settings, now=now, who=who)
        elif action == "resume":
            runs.resume_run(session, name, limits=None, settings=settings, now=now, who=who)
        else:
            raise HTTPException(400, "action must be one of: pause, resume")
    word = "paused" if action == "pause" else "resumed"
    return RedirectResponse(f"/jobs?done={quote(f'{name} is {word}')}", 303)


RULES = (Rule(path="/jobs/backfill", view=change_backfill, methods=("POST",), role=Role.ADMINISTRATOR),)
