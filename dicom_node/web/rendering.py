"""Rendering of the templates, with what every page needs: user, token, words for states and times."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from dicom_node.admin.degrees import degree_word
from dicom_node.admin.formats import (
    amount,
    change_percent,
    change_word,
    clock,
    day,
    label,
    moment,
    percent,
    person_name,
    presence_percent,
    presence_word,
    span,
)
from dicom_node.web.authentication import csrf_token


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dicom_node.web", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (
        amount,
        moment,
        day,
        percent,
        presence_percent,
        presence_word,
        change_percent,
        change_word,
        degree_word,
        span,
        label,
        clock,
    )
    environment.filters.update({function.__name__: function for function in filters} | {"name": person_name})
    return environment


def render(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page. `user` is given by the caller where there is one."""
    values.setdefault("user", None)
    if template == "login.html":
        state = request.app.state
        values |= {"oidc_name": state.oidc_name, "has_passwords": state.has_passwords}
    page = _environment().get_template(template)
    text = page.render(csrf=csrf_token(request.session), path=request.url.path, **values)
    return HTMLResponse(text, status)
