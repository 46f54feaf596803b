"""Log-in by OpenID Connect against a provider: who gets in, with which role, and what is refused in which words."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey
from sqlalchemy import select

from dicom_node.cli.doctor.machine_checks import Grade, log_in_provider
from dicom_node.config import Settings
from dicom_node.errors import NodeError
from dicom_node.index.tables.core import AuditEvent
from dicom_node.web import oidc
from dicom_node.web.oidc import OidcProvider
from dicom_node.web.oidc_identity import LogInError
from tests.support.oidc_provider import CLIENT, SECRET, Provider, running_provider
from tests.support.web_site import PASSWORD, Site, running_site, token

PUBLIC_URL = "http://localhost:4711/"
"""Where the browser would reach the pages by a proxy; the client of these tests takes the path of it."""
ADA: dict[str, Any] = {"sub": "u-1", "preferred_username": "ada", "groups": ["everybody", "radiology"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """The pages and the provider."""

    site: Site
    provider: Provider

    def at_provider(self, client: httpx.Client, wanted: str = "/") -> httpx.Response:
        """Begin a log-in and do what the browser does at the provider; returns its redirect back."""
        there = client.get("/login/oidc", params={"wanted": wanted})
        assert there.status_code == 303, there.text
        with httpx.Client(trust_env=False) as browser:
            return browser.get(there.headers["location"])

    def come_back(self, client: httpx.Client, answer: httpx.Response, **changes: str) -> httpx.Response:
        """Follow the provider's redirect to the pages."""
        assert answer.status_code == 302, answer.text
        target = urlsplit(answer.headers["location"])
        assert target.geturl().startswith("http://localhost:4711/login/oidc/callback?")
        query = {name: values[-1] for name, values in parse_qs(target.query).items()}
        return client.get(target.path, params={**query, **changes})

    def log_in(self, client: httpx.Client, **user: Any) -> httpx.Response:
        """The whole way of somebody whom the provider knows by these claims."""
        self.provider.user = {**ADA, **user}
        return self.come_back(client, self.at_provider(client))


@pytest.fixture(scope="module")
def _door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("oidc")
    (folder / "oidc.secret").write_text(SECRET + "\n")
    with running_provider() as provider:
        provider.client.redirect_uri = f"{PUBLIC_URL}login/oidc/callback"
        table = {
            "issuer": provider.issuer,
            "client_id": CLIENT,
            "client_secret_file": folder / "oidc.secret",
            "public_url": PUBLIC_URL,
            "name": "the hospital's account",
            "viewers": ("everybody",),
            "radiologists": ("radiology",),
            "administrators": ("pacs-team",),
        }
        with running_site(folder, with_study=False, oidc=table) as site:
            yield Door(site=site, provider=provider)


@pytest.fixture
def door(_door: Door) -> Door:
    provider = _door.provider
    provider.user, provider.userinfo, provider.changes, provider.signing_key = dict(ADA), {}, {}, None
    return _door


@pytest.fixture
def client(door: Door) -> Iterator[httpx.Client]:
    with door.site.client() as client:
        yield client


def said(answer: httpx.Response) -> str:
    """The words of the page's alert."""
    found = re.search(r'role="alert">([^<]*)<', answer.text)
    return html.unescape(found[1]) if found else ""


def test_log_in_by_the_provider_opens_a_session_of_the_claims_role(door: Door, client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 401
    assert "Log in with the hospital&#39;s account" in page.text
    assert "/login/oidc?wanted=/" in page.text
    door.provider.user = dict(ADA)
    arrived = door.come_back(client, door.at_provider(client, "/jobs"))
    assert arrived.status_code == 200
    assert 'content="0; url=/jobs"' in arrived.text, "a redirect would go on without the strict cookie"
    home = client.get("/")
    assert "ada · radiologist" in home.text
    with door.site.node.database.read() as session:
        messages = session.scalars(select(AuditEvent.message).where(AuditEvent.event_id == "110114")).all()
    assert any('UserID="ada"' in one and f"u-1 at {door.provider.issuer}" in one for one in messages)


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"groups": ["everybody"]}, "viewer"),
        ({"groups": ["pacs-team", "everybody"]}, "administrator"),
        ({"groups": "radiology"}, "radiologist"),
    ],
    ids=["one group", "the highest of two", "one value that is no list"],
)
def test_role_is_the_highest_that_a_group_gives(
    door: Door, client: httpx.Client, claims: dict[str, Any], role: str
) -> None:
    door.log_in(client, **claims)
    assert f"ada · {role}" in client.get("/").text


def test_claims_that_the_token_leaves_out_are_asked_of_userinfo(door: Door, client: httpx.Client) -> None:
    door.provider.user = {"sub": "u-1"}
    door.provider.userinfo = {**ADA, "groups": ["pacs-team"]}
    door.come_back(client, door.at_provider(client))
    assert "ada · administrator" in client.get("/").text
    door.provider.userinfo["sub"] = "u-2"
    assert "of somebody else" in said(door.come_back(client, door.at_provider(client)))


def test_somebody_without_a_group_of_ours_is_told_so_and_stays_out(door: Door, client: httpx.Client) -> None:
    answer = door.log_in(client, groups=["kitchen"])
    assert answer.status_code == 401
    assert said(answer).startswith("ada is known to the provider but has no role here")
    assert client.get("/").status_code == 401


def test_cancel_at_the_provider_is_said_and_what_it_writes_is_text(door: Door, client: httpx.Client) -> None:
    answer = door.at_provider(client)
    refused = door.come_back(client, answer, error="access_denied", error_description="<b>no</b>")
    assert said(refused) == "the provider refused: access_denied (<b>no</b>)"
    assert "<b>no</b>" not in refused.text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iss": "https://other.example"}, "invalid_claim"),
        ({"aud": "another-client"}, "invalid_claim"),
        ({"nonce": "of another log-in"}, "invalid_claim"),
        ({"exp": 1_000_000_000}, "expired_token"),
        ({"azp": "another-client", "aud": [CLIENT, "another-client"]}, "invalid_claim"),
    ],
    ids=["issuer", "audience", "nonce", "expired", "authorized party"],
)
def test_token_whose_claims_do_not_hold_is_refused(
    door: Door, client: httpx.Client, changes: dict[str, Any], why: str
) -> None:
    door.provider.changes = changes
    answer = door.log_in(client)
    assert answer.status_code == 401
    assert said(answer) == f"the provider's answer does not hold ({why}); log in again"
    assert client.get("/").status_code == 401


def test_token_signed_by_somebody_else_is_refused(door: Door, client: httpx.Client) -> None:
    door.provider.signing_key = RSAKey.generate_key(2048)
    assert "bad_signature" in said(door.log_in(client))
    assert client.get("/").status_code == 401


def test_answer_that_this_browser_did_not_ask_for_is_refused(door: Door, client: httpx.Client) -> None:
    """Somebody sends a link with a code of their own (log-in CSRF), changes the state, or uses a code twice."""
    with door.site.client() as attacker:
        theirs = door.at_provider(attacker)
        assert "begun in another browser" in said(door.come_back(client, theirs))
        mine = door.at_provider(client)
        assert "another log-in" in said(door.come_back(client, mine, state="x" * 43))
        assert "begun in another browser" in said(door.come_back(client, mine)), (
            "the attempt ended with the wrong state"
        )
        assert door.come_back(attacker, theirs).status_code == 200
        door.at_provider(attacker)
        assert "another log-in" in said(door.come_back(attacker, theirs))
    assert client.get("/").status_code == 401


def test_code_of_another_attempt_fails_at_the_verifier(door: Door, client: httpx.Client) -> None:
    """A stolen code is worth nothing without the verifier of its own attempt (PKCE)."""
    with door.site.client() as victim:
        stolen = parse_qs(urlsplit(door.at_provider(victim).headers["location"]).query)["code"][0]
    mine = door.at_provider(client)
    assert said(door.come_back(client, mine, code=stolen)) == (
        "the provider's answer does not hold (invalid_grant); log in again"
    )


def test_new_keys_of_the_provider_are_found_at_once(
    door: Door, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.log_in(client)
    asked = door.provider.asked.count("/keys")
    door.log_in(client)
    assert door.provider.asked.count("/keys") == asked, "known keys are not asked for again"
    door.provider.rotate_keys()
    monkeypatch.setattr(oidc, "KEYS_SECONDS", 0.0)
    assert door.log_in(client).status_code == 200
    assert door.provider.asked.count("/keys") == asked + 1


def test_log_out_ends_the_session_here_and_leads_to_the_providers_end(door: Door, client: httpx.Client) -> None:
    door.log_in(client)
    copied = dict(client.cookies)
    answer = client.post("/logout", data={"csrf": csrf(client)})
    assert f"{door.provider.issuer}/logout?client_id={CLIENT}" in html.unescape(answer.text)
    with httpx.Client(base_url=door.site.base, cookies=copied, trust_env=False) as thief:
        assert thief.get("/").status_code == 401


def csrf(client: httpx.Client) -> str:
    return str(client.get("/api/token").json()["csrf"])


def test_passwords_work_beside_it_and_log_out_as_before(door: Door) -> None:
    with door.site.client("viewer") as client:
        assert "viewer · viewer" in client.get("/").text
        assert client.post("/logout", data={"csrf": csrf(client)}).status_code == 303


def test_provider_that_cannot_be_reached_or_is_another_is_said(tmp_path: Path) -> None:
    with running_provider() as provider:
        address = provider.issuer
        provider.issuer = "https://other.example"
        table = {"issuer": address, "client_id": CLIENT, "public_url": PUBLIC_URL, "viewers": ("everybody",)}
        with running_site(tmp_path, with_study=False, oidc=table) as site, site.client() as client:
            configured = site.node.settings.oidc
            assert configured is not None
            with pytest.raises(NodeError, match="make them equal"):
                log_in_provider(configured)  # what `dicom-node doctor` says of it
            answer = client.get("/login/oidc")
            assert answer.status_code == 502
            assert "calls itself https://other.example" in said(answer)
            provider.issuer = address
            assert log_in_provider(configured).grade is Grade.GOOD
            assert client.get("/login/oidc").status_code == 303
    with running_site(tmp_path / "gone", with_study=False, oidc=table) as site, site.client() as client:
        assert said(client.get("/login/oidc")) == "the provider cannot be reached (ConnectionError); try again later"
        assert (
            client.post("/login", data={"name": "viewer", "password": PASSWORD, "csrf": token(client)}).status_code
            == 303
        )


def test_document_without_end_is_left_and_said() -> None:
    """The log-in that read it held the lock of all others, and the memory of the node."""
    with running_provider() as provider:
        table = {"issuer": provider.issuer, "client_id": CLIENT, "public_url": PUBLIC_URL, "viewers": ("everybody",)}
        settings = Settings.model_validate({"oidc": table}).oidc
        assert settings is not None
        for path in ("/.well-known/openid-configuration", "/keys"):
            provider.endless = path
            with pytest.raises(LogInError, match="AnswerTooLongError"):
                OidcProvider(settings, secret="s").check()


def test_name_of_the_provider_is_one_that_can_be_kept(door: Door, client: httpx.Client) -> None:
    """PostgreSQL keeps no NUL, and a mark of direction would turn the words beside the name around."""
    assert door.log_in(client, preferred_username="a\0d\N{RIGHT-TO-LEFT OVERRIDE}a").status_code == 200
    assert client.get("/api/token").json()["user"] == "ada"


def test_failed_log_ins_of_one_address_are_paused_and_strangers_write_no_audit(tmp_path: Path) -> None:
    with running_provider() as provider:
        provider.client.redirect_uri = f"{PUBLIC_URL}login/oidc/callback"
        table = {"issuer": provider.issuer, "client_id": CLIENT, "public_url": PUBLIC_URL, "viewers": ("everybody",)}
        far = {"trusted_proxies": ("10.0.0.1/32",)}
        with running_site(tmp_path, with_study=False, oidc=table, web_settings=far) as site, site.client() as client:
            door = Door(site=site, provider=provider)
            for _ in range(8):
                assert client.get("/login/oidc/callback", params={"state": "x"}).status_code == 401
            statuses = [
                door.come_back(client, door.at_provider(client), error="access_denied").status_code for _ in range(6)
            ]
            assert statuses == [401] * 5 + [429]
            with site.node.database.read() as session:
                rows = session.scalars(select(AuditEvent).where(AuditEvent.event_id == "110114")).all()
            assert len(rows) == 5


@pytest.mark.parametrize("wanted", ["//evil.example/", "/\t/evil.example/", "https://evil.example/"])
def test_wanted_page_is_one_of_this_node(door: Door, client: httpx.Client, wanted: str) -> None:
    arrived = door.come_back(client, door.at_provider(client, wanted))
    assert 'content="0; url=/"' in arrived.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"issuer": "http://login.example"}, "must begin with https://"),
        ({"scopes": ("profile",)}, 'scopes must hold "openid"'),
        ({"viewers": ()}, "nobody would have a role"),
    ],
    ids=["http", "scope", "roles"],
)
def test_table_that_could_let_nobody_in_safely_is_refused(changes: dict[str, Any], words: str) -> None:
    table = {
        "issuer": "https://login.example",
        "client_id": "x",
        "public_url": "https://node.example",
        "viewers": ("a",),
    }
    with pytest.raises(ValueError, match=words):
        Settings.model_validate({"oidc": {**table, **changes}})
