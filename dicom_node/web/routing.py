"""From a request to a view: default deny, roles, CSRF, size limits; views are plain functions on worker threads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from dicom_node.config import Role
from dicom_node.context import NodeContext
from dicom_node.errors import IndexUnavailableError, NodeError, UsageError
from dicom_node.web.authentication import HEADERS, Authenticator, User, client_address, has_valid_csrf
from dicom_node.web.rendering import render

MAX_BODY_BYTES = 65_536
BODY_SECONDS = 30.0
"""For a whole request body to arrive."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """The arguments of a view. form: the last value of each field of an urlencoded body. user: None on open routes."""

    node: NodeContext
    request: Request
    user: User | None
    form: dict[str, str]
    body: bytes
    doorkeeper: Authenticator

    @property
    def who(self) -> User:
        """The user on a route that needs one."""
        assert self.user is not None, "the route table lets nobody in without a log-in"
        return self.user

    def text(self, name: str, default: str = "") -> str:
        """One value of the query string."""
        return self.request.query_params.get(name, default)

    def json_value(self) -> Any:
        """The value of a JSON body. Raises HTTPException 400 where it is none, or holds half a character."""
        try:
            value = json.loads(self.body)
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is JSON, and no text that can be kept
        except (ValueError, RecursionError):
            raise HTTPException(400, "the body is no JSON") from None
        return value

    def number(self, name: str, default: int, *, least: int = 0, most: int = 1_000_000) -> int:
        """One whole number of the query string. Raises HTTPException 400 naming what is allowed."""
        given = self.request.query_params.get(name)
        if given is None:
            return default
        try:
            value = int(given)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise HTTPException(400, f"{name} must be a whole number from {least} to {most}")
        return value


View = Callable[[Call], Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One route. role None: open to everybody. checks_csrf: off only where no session can exist yet."""

    path: str
    view: View
    methods: tuple[str, ...] = ("GET",)
    role: Role | None = Role.VIEWER
    checks_csrf: bool = True


def route(rule: Rule, node: NodeContext, doorkeeper: Authenticator) -> Route:
    """The Starlette route of a rule."""

    async def endpoint(request: Request) -> Response:
        user = doorkeeper.user_of(request)
        if rule.role is not None and user is None:
            return _log_in_first(request)
        if rule.role is not None and user is not None and not user.may(rule.role):
            return _refuse(request, 403, f"this needs the role {rule.role}")
        # After the role is checked: a body of someone who may not post is not read.
        body = await _body(request) if request.method == "POST" else b""
        form = _form(request, body)
        # Scripts send the token in a header, forms in a field.
        given = request.headers.get("x-csrf-token") or form.get("csrf", "")
        if (
            request.method == "POST"
            and rule.checks_csrf
            and not has_valid_csrf(request.session, request.headers, given)
        ):
            return _refuse(request, 403, "the form is too old or came from elsewhere; load the page again")
        call = Call(node=node, request=request, user=user, form=form, body=body, doorkeeper=doorkeeper)
        return await _answer(rule.view, call)

    return Route(rule.path, endpoint, methods=list(rule.methods))


async def _answer(view: View, call: Call) -> Response:
    try:
        return await run_in_threadpool(view, call)
    except UsageError as error:
        return _refuse(call.request, 400, str(error))
    except IndexUnavailableError:
        return _refuse(call.request, 503, "the index does not answer just now")
    except NodeError as error:
        return _refuse(call.request, 502, str(error))


async def _body(request: Request) -> bytes:
    """The body up to MAX_BODY_BYTES; whatever its headers claim, no more is read."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise HTTPException(413, f"a request has at most {MAX_BODY_BYTES} bytes")
                parts.append(part)
    except TimeoutError:
        words = f"the request was not whole after {BODY_SECONDS:g} s"
        raise HTTPException(408, words, headers={"Connection": "close"}) from None
    return b"".join(parts)


def _form(request: Request, body: bytes) -> dict[str, str]:
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return {}
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise HTTPException(400, "the form is not readable") from None
    return {name: values[-1] for name, values in fields.items()}


def wants_json(request: Request) -> bool:
    """Tell whether the caller is a program."""
    return request.url.path.startswith("/api/")


def _log_in_first(request: Request) -> Response:
    if wants_json(request):
        return JSONResponse({"error": "log in first"}, 401, headers={"WWW-Authenticate": "Session"})
    return render(request, "login.html", status=401, wanted=request.url.path if request.method == "GET" else "/")


def _refuse(request: Request, status: int, text: str) -> Response:
    if wants_json(request):
        return JSONResponse({"error": text}, status)
    return render(request, "message.html", status=status, title=str(status), text=text)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own refusals (404, 405, ours) in the node's words."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "something went wrong"
    response = _refuse(request, status, detail)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response


async def on_unexpected(request: Request, _error: Exception) -> Response:
    """Nothing of a fault's inside goes out. Runs outside the middleware, so it brings the headers itself."""
    text = "something went wrong; the log says what"
    if wants_json(request):
        return JSONResponse({"error": text}, 500, headers=HEADERS)
    return PlainTextResponse(text, 500, headers=HEADERS)


def address_of(call: Call) -> str:
    """The peer's address."""
    return client_address(call.request)
