"""Log-in by OpenID Connect: the authorization code flow with PKCE (OpenID Connect Core 1.0 section 3.1, RFC 7636).

The browser carries state, nonce and verifier of its attempt in a signed cookie, so nothing is kept here for strangers.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from itsdangerous import BadSignature, URLSafeTimedSerializer

from dicom_node.config import OidcSection
from dicom_node.web.oidc_identity import LogInAttempt, LogInError, SignedInIdentity, identity_of, values_at

if TYPE_CHECKING:  # imported with the first log-in: most nodes have no provider, and these take a tenth of a second
    import requests
    from authlib.integrations.requests_client import OAuth2Session
    from joserfc.jwk import KeySet

ALGORITHMS: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""Signatures with the provider's public key. Neither "none", nor HMAC, whose key a stranger could take from here."""
ATTEMPT_SECONDS: Final = 600
"""A log-in at the provider takes at most this long."""
DISCOVERY_SECONDS: Final = 3600.0
KEYS_SECONDS: Final = 10.0
"""Keys are asked for again after this long where a token names one that is not known: the provider changed them."""
ANSWER_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 1 << 20
"""Of a document or token; those of real providers have some kilobytes."""
LEEWAY_SECONDS: Final = 60
"""The two clocks may differ by this much."""


class OidcProvider:
    """The provider of `[oidc]`, asked when somebody logs in. For all threads."""

    def __init__(self, settings: OidcSection, *, secret: str) -> None:
        """`secret` signs the attempts."""
        self.settings = settings
        self._signer = URLSafeTimedSerializer(secret, salt="log-in attempt")
        self._callback = f"{settings.public_url.rstrip('/')}/login/oidc/callback"
        self._guard = threading.Lock()
        self._metadata: dict[str, Any] = {}
        self._metadata_at = 0.0
        self._keys: KeySet | None = None
        self._keys_at = 0.0

    @property
    def client(self) -> str:
        """This node at this provider: sessions are tied to it."""
        return f"{self.settings.issuer} {self.settings.client_id}"

    def check(self) -> None:
        """Raise LogInError unless the provider's documents can be read and hold what a log-in needs."""
        with self._errors():
            self._client()
            self._signing_keys()
            for name in ("authorization_endpoint", "token_endpoint"):
                self._endpoint(name)

    def seal(self, attempt: LogInAttempt) -> str:
        """The attempt as a cookie, which nobody else can make."""
        return self._signer.dumps(asdict(attempt))

    def unseal(self, cookie: str) -> LogInAttempt:
        """The attempt of a cookie. Raises LogInError where it is missing, too old or not of this node."""
        try:
            return LogInAttempt(**self._signer.loads(cookie, max_age=ATTEMPT_SECONDS))
        except (BadSignature, TypeError):
            raise LogInError("this log-in took too long or was begun in another browser; log in again") from None

    def authorization_url(self, attempt: LogInAttempt) -> str:
        """Where the browser goes to log in. Raises LogInError."""
        with self._errors():
            url, _ = self._client().create_authorization_url(
                self._endpoint("authorization_endpoint"),
                state=attempt.state,
                nonce=attempt.nonce,
                code_verifier=attempt.verifier,
            )
        return str(url)

    def identify(self, attempt: LogInAttempt, answer: Mapping[str, str]) -> SignedInIdentity:
        """Exchange the provider's answer for who it is. Raises LogInError."""
        if not secrets.compare_digest(answer.get("state", "").encode(), attempt.state.encode()):
            raise LogInError("the answer belongs to another log-in; log in again")
        if error := answer.get("error", ""):
            detail = answer.get("error_description", "")[:200]
            raise LogInError(f"the provider refused: {error[:60]}{f' ({detail})' if detail else ''}")
        if answer.get("iss", self.settings.issuer) != self.settings.issuer:  # RFC 9207: a mix-up of two providers
            raise LogInError("the answer comes from another provider; log in again")
        with self._errors():
            session = self._client()
            token = session.fetch_token(
                self._endpoint("token_endpoint"), code=answer.get("code", ""), code_verifier=attempt.verifier
            )
            claims = self._claims(token, attempt)
            if values_at(claims, self.settings.role_claim) is None or self.settings.name_claim not in claims:
                claims = {**self._userinfo(session, claims), **claims}
        return identity_of(claims, self.settings)

    def end_session_url(self) -> str | None:
        """Where the browser ends its session at the provider (RP-Initiated Logout 1.0); None: nowhere."""
        try:
            endpoint = self._discover().get("end_session_endpoint")
        except LogInError:
            return None
        query = {"client_id": self.settings.client_id, "post_logout_redirect_uri": self.settings.public_url}
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}" if endpoint else None

    def _client(self) -> OAuth2Session:
        from authlib.integrations.requests_client import OAuth2Session

        settings, secret = self.settings, None
        if settings.client_secret_file is not None:
            try:
                secret = settings.client_secret_file.read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise LogInError("oidc.client_secret_file cannot be read; tell the administrator") from error
        methods = self._discover().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        method = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        session = OAuth2Session(
            settings.client_id,
            secret,
            scope=" ".join(settings.scopes),
            redirect_uri=self._callback,
            token_endpoint_auth_method=method if secret else "none",
            code_challenge_method="S256",
            default_timeout=ANSWER_SECONDS,
        )
        session.trust_env = False  # a proxy variable of some shell must not carry codes elsewhere
        _bound(session)
        session.verify = str(settings.ca) if settings.ca is not None else True
        return session

    def _endpoint(self, name: str) -> str:
        endpoint = self._discover().get(name)
        if not isinstance(endpoint, str):
            raise LogInError(f"the provider's discovery document has no {name}; tell the administrator")
        return endpoint

    def _discover(self) -> dict[str, Any]:
        """The provider's metadata (OpenID Connect Discovery 1.0 section 4), asked for once an hour."""
        with self._guard:
            if not self._metadata or time.monotonic() - self._metadata_at > DISCOVERY_SECONDS:
                issuer = self.settings.issuer
                metadata = self._get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
                if metadata.get("issuer") != issuer:
                    named = metadata.get("issuer")
                    raise LogInError(f"oidc.issuer is {issuer}, but the provider calls itself {named}; make them equal")
                self._metadata, self._metadata_at = metadata, time.monotonic()
            return self._metadata

    def _get(self, url: str, **headers: str) -> dict[str, Any]:
        import requests

        with self._errors(), requests.Session() as session:
            session.trust_env = False
            _bound(session)
            verify = str(self.settings.ca) if self.settings.ca is not None else True
            answer = session.get(url, headers=headers, timeout=ANSWER_SECONDS, verify=verify)
            answer.raise_for_status()
            document = answer.json()
        if not isinstance(document, dict):
            raise LogInError(f"{url} gives no JSON object; tell the administrator")
        return document

    def _claims(self, token: Mapping[str, Any], attempt: LogInAttempt) -> dict[str, Any]:
        """The claims of the ID token once its signature and all of Core section 3.1.3.7 hold."""
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import JoseError

        given = str(token.get("id_token", ""))
        try:
            read = jwt.decode(given, self._signing_keys(), algorithms=ALGORITHMS)
        except (JoseError, ValueError):
            read = jwt.decode(given, self._signing_keys(anew=True), algorithms=ALGORITHMS)
        claims = CodeIDToken(
            read.claims,
            read.header,
            {
                "iss": {"essential": True, "value": self.settings.issuer},
                "aud": {"essential": True, "value": self.settings.client_id},
            },
            {"nonce": attempt.nonce, "client_id": self.settings.client_id, "access_token": token.get("access_token")},
        )
        claims.validate(leeway=LEEWAY_SECONDS)
        return dict(claims)

    def _signing_keys(self, *, anew: bool = False) -> KeySet:
        with self._guard:
            known, age = self._keys, time.monotonic() - self._keys_at
        if known is None or age > DISCOVERY_SECONDS or (anew and age > KEYS_SECONDS):
            from joserfc.jwk import KeySet

            # Whatever JSON the provider gives: joserfc checks its form.
            answer: Any = self._get(self._endpoint("jwks_uri"))
            known = KeySet.import_key_set(answer)
            with self._guard:
                self._keys, self._keys_at = known, time.monotonic()
        return known

    def _userinfo(self, session: OAuth2Session, claims: Mapping[str, Any]) -> dict[str, Any]:
        """The claims that the ID token left out (Core section 5.3), of the same subject."""
        endpoint = self._discover().get("userinfo_endpoint")
        if not endpoint:
            return {}
        user_info = self._get(endpoint, Authorization=f"Bearer {session.token['access_token']}")
        if user_info.get("sub") != claims.get("sub"):
            raise LogInError("the provider's userinfo is of somebody else; tell the administrator")
        return user_info

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Map what the libraries raise of a provider's answers."""
        import requests

        try:
            yield
        except requests.RequestException as error:
            raise LogInError(f"the provider cannot be reached ({type(error).__name__}); try again later") from error
        except _library_errors() as error:
            why = str(getattr(error, "error", "") or type(error).__name__)[:60]
            raise LogInError(f"the provider's answer does not hold ({why}); log in again") from error
        except (ValueError, KeyError, TypeError) as error:
            raise LogInError("the provider's answer is not understood; tell the administrator") from error


def _bound(session: requests.Session) -> None:
    """Read no answer without end: whoever waits for it holds the lock that every log-in needs."""
    from dicom_node.dicom.bounded_answers import AnswerLimits, bound_answers

    limits = AnswerLimits(most_bytes=MAX_ANSWER_BYTES, most_seconds=ANSWER_SECONDS)
    bound_answers(session, limits, head_seconds=ANSWER_SECONDS)


def _library_errors() -> tuple[type[Exception], ...]:
    """Exceptions of a provider's answer; asked for only once something was raised."""
    from authlib.common.errors import AuthlibBaseError
    from joserfc.errors import JoseError

    return AuthlibBaseError, JoseError
