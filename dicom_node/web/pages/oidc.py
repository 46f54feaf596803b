"""Logging in by the provider of `[oidc]`: to it and back; every attempt is audited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from dicom_node.web.oidc import ATTEMPT_SECONDS, OidcProvider
from dicom_node.web.oidc_identity import LogInAttempt, LogInError
from dicom_node.web.pages.login import audit_log_in, local_path
from dicom_node.web.rendering import render
from dicom_node.web.routing import Call, Rule, address_of

COOKIE = "dicom_node_attempt"
"""The session's cookie is SameSite=Strict, so it does not come along when the provider sends the browser back."""


def go_to_provider(call: Call) -> Response:
    """Send the browser to the provider, with the attempt in a cookie of its own."""
    attempt = LogInAttempt(wanted=local_path(call.text("wanted", "/"))[:1000])
    with _place(call) as provider:
        try:
            answer = RedirectResponse(provider.authorization_url(attempt), 303)
        except LogInError as error:
            return render(call.request, "login.html", status=502, wanted=attempt.wanted, error=str(error))
        _keep(answer, provider, provider.seal(attempt), ATTEMPT_SECONDS)
    return answer


def come_back(call: Call) -> Response:
    """Exchange the provider's answer for a session."""
    keys = call.doorkeeper.address_keys(address_of(call))  # a name is known only in the end
    with _place(call) as provider:
        try:
            attempt = provider.unseal(call.request.cookies.get(COOKIE, ""))
        except (
            LogInError
        ) as error:  # nobody has tried anything: no row of the audit for each such request of a stranger
            return _refuse(call, provider, error)
        if call.doorkeeper.must_pause(keys):
            text = "too many log-ins failed; try again in a minute"
            return render(call.request, "message.html", status=429, title="429", text=text)
        try:
            identity = provider.identify(attempt, call.request.query_params)
        except LogInError as error:
            call.doorkeeper.note(keys, failed=True)
            audit_log_in(call, "", succeeded=False)
            return _refuse(call, provider, error)
    call.doorkeeper.note(keys, failed=False)
    audit_log_in(call, identity.name, succeeded=True, full_name=f"{identity.subject} at {provider.settings.issuer}")
    call.request.session.clear()
    call.request.session.update(call.doorkeeper.log_in_by(provider, identity))
    # Not a redirect: one that another site began goes on without the session's strict cookie.
    page = render(call.request, "moved.html", title="Logged in", target=attempt.wanted, text="Go on")
    _keep(page, provider, "", 0)
    return page


@contextmanager
def _place(call: Call) -> Iterator[OidcProvider]:
    """The provider, and one of the places of those who wait for it. Raises HTTPException."""
    if call.doorkeeper.oidc is None:
        raise HTTPException(404, "there is no table [oidc] in the configuration")
    if not call.doorkeeper.waiting.acquire(blocking=False):
        raise HTTPException(503, "many log in at this moment; try again in a few seconds")
    try:
        yield call.doorkeeper.oidc
    finally:
        call.doorkeeper.waiting.release()


def _refuse(call: Call, provider: OidcProvider, error: LogInError) -> Response:
    refused = render(call.request, "login.html", status=401, wanted="/", error=str(error))
    _keep(refused, provider, "", 0)
    return refused


def _keep(answer: Response, provider: OidcProvider, value: str, seconds: int) -> None:
    answer.set_cookie(
        COOKIE,
        value,
        max_age=seconds,
        path="/login/oidc",
        secure=provider.settings.public_url.startswith("https://"),
        httponly=True,
        samesite="lax",
    )


RULES = (
    Rule(path="/login/oidc", view=go_to_provider, role=None),
    Rule(path="/login/oidc/callback", view=come_back, role=None),
)
"""The attempt's cookie and its state do here what the form's token does elsewhere: nobody is logged in by a link."""
