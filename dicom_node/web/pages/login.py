"""Logging in and out; every attempt is audited."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from dicom_node.audit import messages as audit
from dicom_node.web.rendering import render
from dicom_node.web.routing import Call, Rule, address_of


def log_in_page(call: Call) -> Response:
    """The form."""
    return render(call.request, "login.html", wanted="/")


def log_in(call: Call) -> Response:
    """Check name and password; open a session."""
    name = call.form.get("name", "")[:255]
    keys = call.doorkeeper.failure_keys(address_of(call), name)
    if not call.doorkeeper.waiting.acquire(blocking=False):
        text = "many log in at this moment; try again in a few seconds"
        return render(call.request, "message.html", status=503, title="503", text=text)
    try:
        with call.doorkeeper.one_at_a_time:
            if call.doorkeeper.must_pause(keys):
                text = "too many wrong passwords; try again in a minute"
                return render(call.request, "message.html", status=429, title="429", text=text)
            session = call.doorkeeper.log_in(name, call.form.get("password", "")[:1024])
            call.doorkeeper.note(keys, failed=session is None)
    finally:
        call.doorkeeper.waiting.release()
    audit_log_in(call, name, succeeded=session is not None)
    if session is None:
        return render(call.request, "login.html", status=401, wanted="/", wrong=True)
    call.request.session.clear()
    call.request.session.update(session)
    return RedirectResponse(local_path(call.form.get("wanted", "/")), 303)


def local_path(path: str) -> str:
    """Only a path of ours is a place to go to after the log-in."""
    # Browsers drop tabs and line feeds of an address, and read a backslash as a slash: "/\t/elsewhere" leads elsewhere.
    is_local = path.startswith("/") and not path.startswith("//") and path.isprintable() and "\\" not in path
    return path if is_local else "/"


def log_out(call: Call) -> Response:
    """End the session, here and in the browser; one that a provider opened has an end there too."""
    provider = call.doorkeeper.oidc if "oidc_role" in call.request.session else None
    call.doorkeeper.log_out(call.request.session)
    call.request.session.clear()
    elsewhere = None if provider is None else provider.end_session_url()
    if elsewhere is None:
        return RedirectResponse("/", 303)
    # Not a redirect: browsers hold the target of a form to form-action of the policy, which names this node only.
    return render(call.request, "moved.html", title="Logged out here", target=elsewhere, text="Log out at the provider")


def audit_log_in(call: Call, name: str, *, succeeded: bool, full_name: str = "") -> None:
    """Record an attempt. full_name: how the provider knows the user."""
    with call.node.database.write() as session:
        audit.record(
            session,
            audit.AuditedEvent.USER_AUTHENTICATION,
            event_type=audit.EventType.LOGIN,
            now=call.node.clock(),
            participants=(
                audit.Participant(user_id=name or "(none)", requestor=True, address=address_of(call), name=full_name),
                audit.this_node(call.node.settings.node.ae_title),
            ),
            outcome=audit.EventOutcome.SUCCESS if succeeded else audit.EventOutcome.SERIOUS_FAILURE,
            site=call.node.settings.audit.site,
        )


RULES = (
    Rule(path="/login", view=log_in_page, role=None),
    Rule(path="/login", view=log_in, methods=("POST",), role=None),
    Rule(path="/logout", view=log_out, methods=("POST",)),
)
