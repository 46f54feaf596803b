"""The JSON routes against their own description: every answer fits it, and no input breaks them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.openapi import from_dict
from schemathesis.specs.openapi import checks

from dicom_node.web.api import RULES, description
from tests.support.web_site import Site, running_site, token

SCHEMA = from_dict(description())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[httpx.Client]:
    with site.client("administrator") as client:
        yield client


def test_the_description_names_every_route() -> None:
    described = {(method.upper(), path) for path, item in description()["paths"].items() for method in item}
    there_are = {(rule.methods[0], rule.path) for rule in RULES if rule.path != "/api/openapi.json"}
    assert described == there_are


@pytest.mark.parametrize(("method", "path"), [(m, p) for p, item in description()["paths"].items() for m in item])
def test_answers_fit_the_description_whatever_is_asked(
    site: Site, client: httpx.Client, method: str, path: str
) -> None:
    operation = SCHEMA[path][method.upper()]
    headers = {"X-CSRF-Token": token(client, "/jobs")}
    cookies = dict(client.cookies)

    @settings(
        max_examples=25,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    @given(case=operation.as_strategy())
    def ask(case: Case[Any]) -> None:
        answer = case.call(base_url=site.base, headers=headers, cookies=cookies)
        case.validate_response(
            answer,
            checks=[
                not_a_server_error,
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
        )

    ask()


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b"{", b'{"result": []}', b'{"a": "b"}', b"\xff\xfe", b'{"result": "-1"}', b"1e999"),
        *(b"[" * 50_000, b'{"\\ud800": 1}', b'{"comment": "\\udfff"}', b'{"result": ' + b"9" * 5000 + b"}"),
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)
def test_a_body_that_is_no_word_is_refused_with_a_reason(site: Site, client: httpx.Client, body: bytes) -> None:
    headers = {"X-CSRF-Token": token(client, "/jobs"), "Content-Type": "application/json"}
    for route in ("feedback", "questions"):
        answer = client.post(f"/api/studies/{site.study_instance_uid}/{route}", content=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]


def test_a_word_goes_in_and_comes_out(site: Site, client: httpx.Client) -> None:
    path = f"/api/studies/{site.study_instance_uid}"
    result = client.get(path).json()["result_id"]
    word = {"result": result, "finding": "pleural_effusion", "aspect": "presence", "verdict": "agree"}
    answer = client.post(f"{path}/feedback", json=word, headers={"X-CSRF-Token": token(client, "/jobs")})
    assert answer.status_code == 201
    (kept,) = client.get(path).json()["feedback"]
    assert (kept["finding"], kept["verdict"], kept["stated"]) == ("pleural_effusion", "agree", "present")
