"""An OpenID Connect provider on loopback, made of Authlib's server parts, which check client, redirect, PKCE, nonce."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Error, OAuth2Request
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode
from joserfc.jwk import KeySet, RSAKey

CLIENT, SECRET = "dicom-node", "not in the repository of a hospital"


@dataclass(slots=True, kw_only=True)
class Code:
    """An authorization code that was given out."""

    code: str
    redirect_uri: str
    scope: str
    nonce: str
    code_challenge: str
    code_challenge_method: str
    auth_time: int = field(default_factory=lambda: int(time.time()))

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_nonce(self) -> str:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.auth_time

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


@dataclass(slots=True, kw_only=True)
class Client:
    """This node as the provider knows it."""

    redirect_uri: str
    client_id: str = CLIENT

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect_uri

    def check_client_secret(self, secret: str) -> bool:
        return secrets.compare_digest(secret, SECRET)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "client_secret_basic"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


class Provider(AuthorizationServer):  # type: ignore[misc]
    """The provider. What a test may change between two log-ins stands in its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.user: dict[str, Any] = {}
        """Claims of whoever logs in at the provider; empty: they press Cancel."""
        self.userinfo: dict[str, Any] = {}
        self.changes: dict[str, Any] = {}
        """Claims of the ID token that a wrong provider would give."""
        self.signing_key: RSAKey | None = None
        """Another key than the published one, for a forged token."""
        self.endless = ""
        """The path of a document that never ends."""
        self.issuer = ""
        self.client = Client(redirect_uri="")
        self.codes: dict[str, Code] = {}
        self.asked: list[str] = []
        self.rotate_keys()
        self.register_grant(_Grant, [CodeChallenge(required=True), _IdToken(require_nonce=True)])
        self.register_token_generator("default", BearerTokenGenerator(lambda **_: secrets.token_urlsafe()))

    def rotate_keys(self) -> None:
        """Sign with a new key from now on, and publish nothing but that."""
        self.key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(4), "use": "sig"})

    def metadata(self) -> dict[str, Any]:
        """The discovery document."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "end_session_endpoint": f"{self.issuer}/logout",
            "jwks_uri": f"{self.issuer}/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
        }

    def query_client(self, client_id: str) -> Client | None:
        return self.client if client_id == CLIENT else None

    def save_token(self, token: Any, request: Any) -> None:
        pass

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        pass

    def create_oauth2_request(self, request: OAuth2Request) -> OAuth2Request:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, bytes, list[tuple[str, str]]]:
        text = json.dumps(body) if isinstance(body, dict) else body
        return status, text.encode(), list(headers)


class _Request(OAuth2Request):  # type: ignore[misc]
    def __init__(self, method: str, path: str, headers: dict[str, str], form: dict[str, str]) -> None:
        super().__init__(method, f"https://provider.example{path}", headers=headers)
        self._form = form
        self.payload = BasicOAuth2Payload({**self.args, **form})
        self.payload._datalist = defaultdict(list, self.payload._datalist)

    @property
    def args(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.uri).query))

    @property
    def form(self) -> dict[str, str]:
        return self._form


class _Grant(AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)

    def save_authorization_code(self, code: str, request: Any) -> None:
        asked = request.payload.data
        self.server.codes[code] = Code(
            code=code,
            redirect_uri=asked["redirect_uri"],
            scope=asked["scope"],
            nonce=asked.get("nonce", ""),
            code_challenge=asked["code_challenge"],
            code_challenge_method=asked["code_challenge_method"],
        )

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        found: Code | None = self.server.codes.get(code)
        return found

    def delete_authorization_code(self, authorization_code: Code) -> None:
        del self.server.codes[authorization_code.code]

    def authenticate_user(self, authorization_code: Code) -> Any:
        return self.server.user


class _IdToken(OpenIDCode):  # type: ignore[misc]
    def __call__(self, grant: Any) -> None:
        self.server = grant.server
        super().__call__(grant)

    def exists_nonce(self, nonce: str, request: Any) -> bool:
        return any(code.nonce == nonce for code in self.server.codes.values())

    def get_client_algorithm(self, client: Client) -> str:
        return "RS256"

    def get_encode_header(self, client: Client) -> dict[str, str]:
        return {"alg": "RS256", "kid": self.server.key.kid}

    def get_compatible_claims(self, request: Any) -> dict[str, Any]:
        now = int(time.time())
        return {"iss": self.server.issuer, "aud": [CLIENT], "iat": now, "exp": now + 300}

    def resolve_client_private_key(self, client: Client) -> Any:
        return self.server.signing_key or self.server.key

    def generate_user_info(self, user: Any, scope: str) -> dict[str, Any]:
        return {**self.server.user, **self.server.changes}


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self._answer(self._request({}))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self._answer(self._request(dict(parse_qsl(body))))

    def _request(self, form: dict[str, str]) -> _Request:
        return _Request(self.command, self.path, dict(self.headers.items()), form)

    def _answer(self, request: _Request) -> None:
        provider: Provider = self.server.provider
        place = urlsplit(self.path).path
        provider.asked.append(place)
        if place == provider.endless:
            self._answer_without_end()
            return
        if place == "/authorize":
            try:
                grant = provider.get_consent_grant(request, end_user=provider.user or None)
                answer = provider.create_authorization_response(request, provider.user or None, grant=grant)
            except OAuth2Error as error:
                answer = provider.handle_error_response(request, error)
        elif place == "/token":
            answer = provider.create_token_response(request)
        else:
            documents: dict[str, Callable[[], object]] = {
                "/.well-known/openid-configuration": provider.metadata,
                "/keys": lambda: KeySet([provider.key]).as_dict(private=False),
                "/userinfo": lambda: provider.userinfo,
            }
            document = documents.get(place, dict)()
            answer = (200 if place in documents else 404, json.dumps(document).encode(), [])
        status, body, headers = answer
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _answer_without_end(self) -> None:
        """Send blanks, which may stand before any JSON, until the other side has had enough."""
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while self.wfile.write(b" " * 65_536):
                pass

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def running_provider() -> Iterator[Provider]:
    """Serve a provider on loopback; `issuer` is its address."""
    provider = Provider()
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.provider = provider
    provider.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
