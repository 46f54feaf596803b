"""Log-in by an OpenID Connect provider."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from dicom_node.config.types import Section, WebAddress

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _require_protected(value: str) -> str:
    parsed = urlsplit(value)
    if parsed.scheme != "https" and parsed.hostname not in LOOPBACK:
        raise ValueError("must begin with https://; http:// is allowed on this machine only")
    return value


ProtectedAddress = Annotated[WebAddress, AfterValidator(_require_protected)]


class OidcSection(Section):
    """Log-in by OpenID Connect beside passwords (code flow with PKCE). Without this table there is none."""

    issuer: ProtectedAddress = Field(
        description="the provider, as its discovery document names it", examples=["https://login.example/realms/site"]
    )
    client_id: str = Field(min_length=1, description="this node's name at the provider", examples=["dicom-node"])
    client_secret_file: Path | None = Field(
        default=None, description="file with the client secret; none: a public client", examples=["oidc.secret"]
    )
    public_url: ProtectedAddress = Field(
        description="the pages as a browser reaches them; the provider must allow PUBLIC_URL/login/oidc/callback",
        examples=["https://node.example"],
    )
    name: str = Field(default="OpenID Connect", min_length=1, description="what the log-in page calls the provider")
    scopes: tuple[str, ...] = Field(default=("openid", "profile"), description="scopes to ask for; openid among them")
    name_claim: str = Field(default="preferred_username", description="claim with the user's name")
    role_claim: str = Field(
        default="groups", description="claim with the user's groups or roles; a dot goes inside, as realm_access.roles"
    )
    viewers: tuple[str, ...] = Field(default=(), description="values of role_claim that make a viewer")
    radiologists: tuple[str, ...] = Field(
        default=(), description="values that make a radiologist", examples=[["radiology"]]
    )
    administrators: tuple[str, ...] = Field(
        default=(), description="values that make an administrator", examples=[["pacs-administrators"]]
    )
    ca: Path | None = Field(
        default=None, description="certificate authority of the provider; none: the public ones", examples=["ca.crt"]
    )

    @model_validator(mode="after")
    def _somebody_may_log_in(self) -> OidcSection:
        if "openid" not in self.scopes:
            raise ValueError('scopes must hold "openid"')
        if not (self.viewers or self.radiologists or self.administrators):
            raise ValueError("nobody would have a role; name groups in viewers, radiologists or administrators")
        return self
