"""The pages of administrators: jobs and dead letters, deliveries, destinations, models, notices."""

from __future__ import annotations

from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from dicom_node.admin import job_listings as reading_jobs
from dicom_node.admin import listings as reading
from dicom_node.admin import operations
from dicom_node.admin.formats import amount, label
from dicom_node.backfill.run_text import recent_runs, run_summary
from dicom_node.config import Destination, Role
from dicom_node.deliver import peer
from dicom_node.errors import DeliveryError
from dicom_node.index.tables.core import DeliveryState, Job, JobState, Notice
from dicom_node.jobs import backlog
from dicom_node.jobs.stalled_destinations import find_stalled
from dicom_node.web.pages.corrections import row_number
from dicom_node.web.pages.worklist import choice
from dicom_node.web.rendering import render
from dicom_node.web.routing import Call, Rule


def jobs(call: Call) -> Response:
    """The work to be done, dead letters first."""
    given = call.text("state")
    if given and given not in [state.value for state in JobState]:
        raise HTTPException(400, f"state must be one of: {', '.join(JobState)}")
    with call.node.database.read() as session:
        lines = reading_jobs.job_lines(session, JobState(given) if given else None)
        abouts = reading_jobs.what_jobs_are_about(session, lines)
        depth = backlog.depth(session)
        runs = [run_summary(session, run, call.node) for run in recent_runs(session, now=call.node.clock())]
    return render(
        call.request,
        "jobs.html",
        user=call.user,
        jobs=lines,
        abouts=abouts,
        backfills=runs,
        depth={f"{label(kind)}, {label(state)}": count for (kind, state), count in sorted(depth.items())},
        dead=sum(count for (_, state), count in depth.items() if state is JobState.DEAD),
        state=given,
        states=list(JobState),
        done=call.text("done")[:80],
    )


def retry(call: Call) -> Response:
    """Revive one dead letter, or all of them."""
    given = call.form.get("job", "")
    with call.node.database.write() as session:
        keys = None
        if given:
            number = row_number(given)
            key = session.scalar(select(Job.key).where(Job.id == number)) if number is not None else None
            if key is None:
                raise HTTPException(404, "no such job")
            keys = [key]
        revived = operations.retry(session, now=call.node.clock(), keys=keys)
    return RedirectResponse(f"/jobs?done={amount(len(revived), 'job')} will be tried again", 303)


def deliveries(call: Call) -> Response:
    """The latest deliveries."""
    with call.node.database.read() as session:
        state = choice(call, "state", DeliveryState)
        lines = reading.deliveries(session, state)
    return render(call.request, "deliveries.html", user=call.user, lines=lines, state=state, states=list(DeliveryState))


def destinations(call: Call) -> Response:
    """Where results go, and how that fares."""
    return _destinations_page(call, asked="", answer=None)


def _destinations_page(call: Call, *, asked: str, answer: str | None) -> Response:
    """The destinations with their deliveries by state, and the answer to an echo."""
    counts: dict[str, dict[str, int]] = {}
    with call.node.database.read() as session:
        for name, state, count in reading.delivery_counts(session):
            counts.setdefault(name, {})[state.value] = count
        stalled = {destination.destination: destination for destination in find_stalled(session)}
    return render(
        call.request,
        "destinations.html",
        stalled=stalled,
        user=call.user,
        destinations=call.node.settings.destinations,
        counts=counts,
        answer=answer,
        asked=asked,
    )


def echo(call: Call) -> Response:
    """C-ECHO to a destination, now."""
    name = str(call.request.path_params["name"])
    destination = next((d for d in call.node.settings.destinations if d.name == name), None)
    if destination is None:
        raise HTTPException(404, "no such destination")
    return _destinations_page(call, asked=name, answer=echo_answer(call, destination))


def echo_answer(call: Call, destination: Destination) -> str:
    """The echo in one sentence."""
    settings = call.node.settings
    try:
        if destination.url:
            from dicom_node.deliver import stow  # it brings a library of HTTP

            stow.check(destination, settings.delivery)
            return "the DICOMweb service answers"
        result = peer.echo(destination, settings.delivery, calling_ae_title=settings.node.ae_title)
    except DeliveryError as error:
        return f"failed: {error}"
    return f"answers in {result.seconds:.2f} s; accepts {', '.join(result.services)}"


def notices(call: Call) -> Response:
    """The notices that people got or will get."""
    with call.node.database.read() as session:
        rows = list(session.scalars(select(Notice).order_by(Notice.id.desc()).limit(200)))
        session.expunge_all()
    return render(call.request, "notices.html", user=call.user, notices=rows)


RULES = (
    Rule(path="/jobs", view=jobs),
    Rule(path="/jobs/retry", view=retry, methods=("POST",), role=Role.ADMINISTRATOR),
    Rule(path="/deliveries", view=deliveries),
    Rule(path="/destinations", view=destinations),
    Rule(path="/destinations/{name}/echo", view=echo, methods=("POST",), role=Role.ADMINISTRATOR),
    Rule(path="/notices", view=notices),
)
