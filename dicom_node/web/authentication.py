"""Who may see and do what on the pages: log-in, sessions, roles, CSRF tokens, response headers."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.config import Role, WebSection
from dicom_node.web.ended_sessions import EndedSessions
from dicom_node.web.oidc import OidcProvider
from dicom_node.web.oidc_identity import SignedInIdentity

RANKS: Mapping[Role, int] = {Role.VIEWER: 0, Role.RADIOLOGIST: 1, Role.ADMINISTRATOR: 2}
FAILURES_BEFORE_PAUSE = 5
PAUSE_SECONDS = 60.0
MAX_TRACKED = 10_000
"""Addresses and names whose failures are counted; beyond it the oldest are forgotten (bounded memory)."""

HEADERS: Mapping[str, str] = {
    # No inline script or style, no foreign origin: an injected text cannot act.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    # Patient data must not stay in a shared machine's cache.
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody who is logged in."""

    name: str
    role: Role

    def may(self, role: Role) -> bool:
        """Tell whether the user's role includes `role`."""
        return RANKS[self.role] >= RANKS[role]


class SecurityHeaders:
    """Puts HEADERS on every response; static files may be cached."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)  # a report, which no script can reach, brings a policy of its own
                if scope["path"].startswith("/static/"):
                    headers["Cache-Control"] = "max-age=3600"
            await send(message)

        await self._app(scope, receive, send_with_headers)


MAX_WAITING_LOG_INS = 16
"""Of the forty threads that the pages have; the others go on serving pages."""


class Authenticator:
    """Checks passwords and proxy headers, opens and ends sessions. One per application; counts failures in memory.

    oidc: who else may say who somebody is.
    """

    def __init__(self, settings: WebSection, ended: EndedSessions, *, oidc: OidcProvider | None = None) -> None:
        self.oidc = oidc
        self._settings = settings
        self._ended = ended
        self._hasher = PasswordHasher()
        # Checked for a name that does not exist: an answer that comes sooner would tell which names do.
        self._nobody = self._hasher.hash(secrets.token_urlsafe())
        self._failures: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()
        self.one_at_a_time = threading.Lock()
        """Held around a log-in: many at once would each be checked before the first failure is counted, and each hash
        takes 64 MB."""
        self.waiting = threading.BoundedSemaphore(MAX_WAITING_LOG_INS)
        """Taken, without waiting, by a log-in that waits: a flood of them must not hold the pages' threads."""

    def user_of(self, connection: HTTPConnection) -> User | None:
        """The user of this request by proxy header or session; None for a stranger."""
        header = self._settings.trusted_header
        if header and within(client_address(connection), self._settings.trusted_proxies):
            name = connection.headers.get(header, "").strip()
            if name:
                return User(name=name[:255], role=self._role_of(name, self._settings.header_role))
        return self._user_of_session(connection.session)

    def _user_of_session(self, session: Mapping[str, Any]) -> User | None:
        session_id = str(session.get("id", ""))
        if float(session.get("until", 0.0)) < time.time() or not session_id or session_id in self._ended:
            return None
        name, mark = str(session.get("user", "")), str(session.get("mark", ""))
        if "oidc_role" in session:
            # Another provider, or none, ends the sessions of the one before.
            if self.oidc is None or not hmac.compare_digest(mark, _mark(self.oidc.client)):
                return None
            return User(name=name, role=Role(session["oidc_role"]))
        known = next((user for user in self._settings.users if user.name == name), None)
        # A changed password or a removed user ends the sessions that were opened with it.
        if known is None or not hmac.compare_digest(mark, _mark(known.password_hash)):
            return None
        return User(name=name, role=known.role)

    def _role_of(self, name: str, otherwise: Role) -> Role:
        return next((user.role for user in self._settings.users if user.name == name), otherwise)

    def log_in(self, name: str, password: str) -> dict[str, Any] | None:
        """The session of a right name and password, else None; takes as long for an unknown name as for a known one."""
        known = next((user for user in self._settings.users if user.name == name), None)
        # Argon2 runs for unknown names too: the time must not tell which names there are.
        stored = known.password_hash if known is not None else self._nobody
        try:
            self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return None
        return None if known is None else self._new_session(name, _mark(stored))

    def log_in_by(self, provider: OidcProvider, identity: SignedInIdentity) -> dict[str, Any]:
        """The session of somebody whom the provider knows; the role is that of the log-in until it ends."""
        return self._new_session(identity.name, _mark(provider.client)) | {"oidc_role": identity.role.value}

    def _new_session(self, name: str, mark: str) -> dict[str, Any]:
        return {
            "id": secrets.token_urlsafe(16),
            "user": name,
            "mark": mark,
            "until": time.time() + self._settings.session_hours * 3600,
            "csrf": secrets.token_urlsafe(32),
        }

    def log_out(self, session: Mapping[str, Any]) -> None:
        """End a session on this side too: its cookie may have been copied."""
        if session_id := str(session.get("id", "")):
            self._ended.end(session_id, float(session.get("until", 0.0)))

    def failure_keys(self, address: str, name: str) -> tuple[str, ...]:
        """Whose failures count together."""
        return (*self.address_keys(address), f"name:{name}")

    def address_keys(self, address: str) -> tuple[str, ...]:
        """The address; nothing behind a proxy, where all have one and must not lock each other out."""
        return () if within(address, self._settings.trusted_proxies) else (f"address:{address}",)

    def must_pause(self, keys: Sequence[str]) -> bool:
        """Tell whether one of these (address, name) failed too often just now."""
        now = time.monotonic()
        with self._lock:
            return any(
                count >= FAILURES_BEFORE_PAUSE and now - at < PAUSE_SECONDS
                for count, at in (self._failures.get(key, (0, 0.0)) for key in keys)
            )

    def note(self, keys: Sequence[str], *, failed: bool) -> None:
        """Count a failure, or forget them after a success."""
        now = time.monotonic()
        with self._lock:
            for key in keys:
                # Taken out and put in again at the end: beyond MAX_TRACKED the key that has been quiet longest goes
                # first.
                count, at = self._failures.pop(key, (0, now))
                if failed:
                    self._failures[key] = (1 if now - at > PAUSE_SECONDS else count + 1, now)
            while len(self._failures) > MAX_TRACKED:
                self._failures.pop(next(iter(self._failures)))


def _mark(opened_by: str) -> str:
    """Ties a session to the password hash or the provider that opened it, without showing the hash."""
    return hmac.new(b"dicom-node session", opened_by.encode(), "sha256").hexdigest()


def csrf_token(session: dict[str, Any]) -> str:
    """The session's token; made when first asked for."""
    token = session.get("csrf")
    if not isinstance(token, str):
        token = session["csrf"] = secrets.token_urlsafe(32)
    return token


def has_valid_csrf(session: Mapping[str, Any], headers: Headers, given: str) -> bool:
    """Tell whether a changing request comes from our own page: its token is the session's, and no other site sent
    it."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    expected = session.get("csrf")
    # As bytes: compare_digest refuses text that is not ASCII, which a stranger may send.
    return isinstance(expected, str) and hmac.compare_digest(expected.encode(), given.encode())


def client_address(connection: HTTPConnection) -> str:
    """The peer's address as the socket has it: a header could say anything."""
    return connection.client.host if connection.client else ""


def within(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Tell whether the address lies in one of the networks; False for what is no address."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed.version == network.version and parsed in network for network in networks)


def ensure_session_secret(data_dir: Path) -> str:
    """The key that signs sessions: made once, readable by the node's user only, shared by its restarts."""
    path = data_dir / "web-secret"
    data_dir.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        temporary = path.with_name(f"web-secret.{secrets.token_hex(8)}")
        temporary.touch(mode=0o600)
        temporary.write_text(secrets.token_urlsafe(48), "ascii")
        try:
            path.hardlink_to(temporary)  # fails where another process was first: then its secret counts
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return path.read_text("ascii").strip()
