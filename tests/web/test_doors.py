"""Who gets in: every route without a log-in, with too small a role, without a token, from another site."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from dicom_node.admin.passwords import hash_password
from dicom_node.config import Role
from dicom_node.index.tables.core import AuditEvent
from dicom_node.web.app import RULES
from dicom_node.web.authentication import HEADERS
from dicom_node.web.routing import Rule
from tests.support.web_site import PASSWORD, ROLES, Site, running_site, token

CLOSED = [rule for rule in RULES if rule.role is not None]
OPEN_PATHS = {"/login", "/login/oidc", "/login/oidc/callback", "/health/live", "/health/ready", "/metrics"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), {"name": "pacs", "port": 1, "ae_title": "PACS"}) as site:
        yield site


@pytest.fixture(scope="module")
def stranger(site: Site) -> Iterator[httpx.Client]:
    with site.client() as client:
        yield client


@pytest.fixture(scope="module")
def administrator(site: Site) -> Iterator[httpx.Client]:
    with site.client("administrator") as client:
        yield client


def path_of(rule: Rule, site: Site) -> str:
    return (
        rule.path.replace("{study_instance_uid}", site.study_instance_uid)
        .replace("{sop_instance_uid}", site.current_sop)
        .replace("{name}", "pacs")
        .replace("{result_id}", "1")
    )


def identity(rule: Rule) -> str:
    return f"{rule.methods[0]} {rule.path}"


@pytest.mark.parametrize("rule", CLOSED, ids=identity)
def test_a_stranger_gets_401_and_nothing_else(site: Site, stranger: httpx.Client, rule: Rule) -> None:
    answer = stranger.request(rule.methods[0], path_of(rule, site))
    assert answer.status_code == 401
    assert site.patient_id not in answer.text
    assert site.patient_name.split("^")[0] not in answer.text


def test_only_these_routes_are_open() -> None:
    assert {rule.path for rule in RULES if rule.role is None} == OPEN_PATHS
    assert all(rule.checks_csrf for rule in RULES if rule.methods == ("POST",))


@pytest.mark.parametrize("rule", [rule for rule in CLOSED if rule.methods == ("POST",)], ids=identity)
def test_a_change_needs_the_token_of_our_own_page(site: Site, administrator: httpx.Client, rule: Rule) -> None:
    path = path_of(rule, site)
    assert administrator.post(path).status_code == 403
    assert administrator.post(path, headers={"X-CSRF-Token": "x" * 43}).status_code == 403
    right = {"X-CSRF-Token": token(administrator, "/jobs")}
    assert administrator.post(path, headers={**right, "Sec-Fetch-Site": "cross-site"}).status_code == 403


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_what_it_should_and_no_more(site: Site, role: str) -> None:
    rank = {name: number for number, name in enumerate(ROLES)}
    with site.client(role) as client:
        headers = {"X-CSRF-Token": token(client, "/")}
        for rule in CLOSED:
            if rule.path == "/logout" or (rule.role is Role.ADMINISTRATOR and role == "administrator"):
                continue
            assert rule.role is not None
            answer = client.request(rule.methods[0], path_of(rule, site), headers=headers)
            if rank[rule.role.value] > rank[role]:
                assert answer.status_code == 403, identity(rule)
            else:
                there_is_none = {404} if rule.path.startswith("/models/") else set()  # no model of that name here
                fine = {200, 201, 303, 400} | there_is_none
                assert answer.status_code in fine, f"{identity(rule)}: {answer.status_code}"


@pytest.mark.parametrize("path", ["/", "/login", "/health/live", "/static/style.css", "/nowhere", "/api/studies"])
def test_every_answer_carries_the_security_headers(stranger: httpx.Client, path: str) -> None:
    answer = stranger.get(path)
    for name, value in HEADERS.items():
        if name != "Cache-Control":
            assert answer.headers[name] == value
    assert "server" not in answer.headers


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(site: Site) -> None:
    with site.client() as client:
        cookie = client.get("/login").headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_a_page_has_no_inline_script_or_style(site: Site, administrator: httpx.Client) -> None:
    for path in ("/", f"/studies/{site.study_instance_uid}", "/feedback", "/jobs", "/destinations", "/models"):
        text = administrator.get(path).text
        assert " style=" not in text
        assert "onclick" not in text
        assert all("src=" in part.split(">", 1)[0] for part in text.split("<script")[1:])


def test_wrong_passwords_pause_the_door_and_are_audited(tmp_path: Path) -> None:
    with running_site(tmp_path, with_study=False) as site, site.client() as client:
        for _ in range(5):
            data = {"name": "viewer", "password": "wrong", "csrf": token(client)}
            assert client.post("/login", data=data).status_code == 401
        data = {"name": "viewer", "password": PASSWORD, "csrf": token(client)}
        assert client.post("/login", data=data).status_code == 429
        with site.node.database.read() as session:
            outcomes = list(session.scalars(select(AuditEvent.outcome).where(AuditEvent.event_id == "110114")))
        assert outcomes == [8] * 5


def test_many_guesses_at_once_are_counted_like_one_after_the_other(tmp_path: Path) -> None:
    with running_site(tmp_path, with_study=False) as site, site.client() as client:
        key, cookies = token(client), dict(client.cookies)

        def guess(number: int) -> int:
            data = {"name": "viewer", "password": f"wrong {number}", "csrf": key}
            return httpx.post(site.base + "/login", data=data, cookies=cookies, trust_env=False, timeout=60).status_code

        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(guess, range(16)))
    assert sorted(answers) == [401] * 5 + [429] * 11


def test_users_behind_one_proxy_do_not_lock_each_other_out(tmp_path: Path) -> None:
    def fail_as_somebody_then_come_in(folder: str, **web: object) -> int:
        users = [{"name": "viewer", "password_hash": hash_password(PASSWORD), "role": "viewer"}]
        with (
            running_site(tmp_path / folder, with_study=False, web={"port": 0, "users": users, **web}) as site,
            site.client() as client,
        ):
            for _ in range(5):
                client.post("/login", data={"name": "somebody", "password": "wrong", "csrf": token(client)})
            data = {"name": "viewer", "password": PASSWORD, "csrf": token(client)}
            return client.post("/login", data=data).status_code

    assert fail_as_somebody_then_come_in("a") == 303, "127.0.0.1 is a proxy's address unless said otherwise"
    assert fail_as_somebody_then_come_in("b", trusted_proxies=["10.1.2.3/32"]) == 429


def test_a_reverse_proxy_may_name_the_user_only_from_its_own_address(tmp_path: Path) -> None:
    header = {"X-Forwarded-User": "dr.proxy"}
    believed = {"port": 0, "trusted_header": "X-Forwarded-User", "header_role": "radiologist"}
    with running_site(tmp_path / "a", with_study=False, web=believed) as site, site.client() as client:
        assert client.get("/api/token", headers=header).json()["role"] == "radiologist"
        assert client.get("/api/token").status_code == 401
    doubted = {**believed, "trusted_proxies": ["10.1.2.3/32"]}
    with running_site(tmp_path / "b", with_study=False, web=doubted) as site, site.client() as client:
        assert client.get("/api/token", headers=header).status_code == 401


def test_a_session_ends_with_log_out_and_a_forged_one_never_begins(site: Site) -> None:
    with site.client("viewer") as client:
        assert client.get("/").status_code == 200
        client.post("/logout", data={"csrf": token(client, "/")})
        assert client.get("/").status_code == 401
    forged = httpx.Cookies({"dicom_node": "eyJ1c2VyIjogImFkbWluaXN0cmF0b3IifQ==.aaaaaa.bbbbbbbbbbbbbbbbbbbb"})
    assert httpx.get(site.base + "/", cookies=forged, trust_env=False).status_code == 401


def test_after_the_log_in_one_never_lands_elsewhere(site: Site) -> None:
    with site.client() as client:
        for wanted in (
            "https://elsewhere.example/",
            "//elsewhere.example",
            "/\\elsewhere.example",
            "/\t/elsewhere.example",
        ):
            data = {"name": "viewer", "password": PASSWORD, "csrf": token(client), "wanted": wanted}
            assert client.post("/login", data=data).headers["location"] == "/"
            client.cookies.clear()


def test_a_body_that_is_too_long_is_refused(site: Site, administrator: httpx.Client) -> None:
    path = f"/api/studies/{site.study_instance_uid}/feedback"
    headers = {"X-CSRF-Token": token(administrator, "/")}
    assert administrator.post(path, content=b"x" * 70_000, headers=headers).status_code == 413


def test_a_copied_cookie_is_worth_nothing_after_log_out(site: Site) -> None:
    with site.client("viewer") as client:
        copied = dict(client.cookies)
        assert httpx.get(site.base + "/", cookies=copied, trust_env=False).status_code == 200
        client.post("/logout", data={"csrf": token(client, "/")})
    assert httpx.get(site.base + "/", cookies=copied, trust_env=False).status_code == 401
