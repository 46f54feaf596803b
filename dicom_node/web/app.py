"""The application: every route in one table, behind sessions and security headers."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from dicom_node.context import NodeContext
from dicom_node.web import api, health
from dicom_node.web.authentication import Authenticator, SecurityHeaders, ensure_session_secret
from dicom_node.web.ended_sessions import EndedSessions
from dicom_node.web.oidc import OidcProvider
from dicom_node.web.pages import admin, backfills, corrections, images, login, oidc, questions
from dicom_node.web.pages import feedback as feedback_pages
from dicom_node.web.pages import models as models_pages
from dicom_node.web.pages import reports as report_pages
from dicom_node.web.pages import retraining as retraining_pages
from dicom_node.web.pages import worklist as views
from dicom_node.web.routing import Rule, on_http_exception, on_unexpected, route

RULES: tuple[Rule, ...] = (
    *login.RULES,
    *oidc.RULES,
    *views.RULES,
    *corrections.RULES,
    *feedback_pages.RULES,
    *admin.RULES,
    *backfills.RULES,
    *models_pages.RULES,
    *retraining_pages.RULES,
    *images.RULES,
    *report_pages.RULES,
    *questions.RULES,
    *api.RULES,
    *health.RULES,
)
"""All there is. Whatever is not here is a 404; whatever names no `role=None` needs a log-in."""


def create_app(node: NodeContext) -> Starlette:
    """The pages of one node."""
    web = node.settings.web
    secret, provider = ensure_session_secret(node.settings.node.data_dir), node.settings.oidc
    doorkeeper = Authenticator(
        web,
        EndedSessions(node.settings.node.data_dir / "web-ended-sessions"),
        oidc=None if provider is None else OidcProvider(provider, secret=secret),
    )
    static = Path(str(resources.files("dicom_node.web").joinpath("static")))
    app = Starlette(
        routes=[
            *(route(rule, node, doorkeeper) for rule in RULES),
            Mount("/static", StaticFiles(directory=static)),
        ],
        middleware=[
            Middleware(SecurityHeaders),
            Middleware(
                SessionMiddleware,
                secret_key=secret,
                session_cookie="dicom_node",
                max_age=int(web.session_hours * 3600),
                # Strict: the session cookie is not sent with a request that another site began.
                same_site="strict",
                https_only=web.secure_cookie,
            ),
        ],
        exception_handlers={HTTPException: on_http_exception, 500: on_unexpected},
    )
    app.state.oidc_name = "" if provider is None else provider.name
    app.state.has_passwords = bool(web.users) or provider is None
    return app
