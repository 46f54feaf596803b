"""Pages, retention, audit messages and notices."""

from __future__ import annotations

import string
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dicom_node.config.peers import TlsClient
from dicom_node.config.types import ListenPort, Port, Section, WebAddress


class Role(StrEnum):
    """The rights of a user of the pages; each role includes those before it."""

    VIEWER = "viewer"
    """Sees the work list and the studies."""
    RADIOLOGIST = "radiologist"
    """Gives feedback."""
    ADMINISTRATOR = "administrator"
    """Retries, reprocesses, resends."""


VIEWER_PLACES = frozenset({"study_instance_uid", "accession_number", "patient_id"})
"""The names that `[web] viewer_url` may hold between braces."""


def _viewer_url(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("must begin with https:// or http://")
    unknown = {name for _, name, _, _ in string.Formatter().parse(value) if name is not None} - VIEWER_PLACES
    if unknown:
        allowed = ", ".join(f"{{{name}}}" for name in sorted(VIEWER_PLACES))
        raise ValueError(f"holds {{{min(unknown)}}}; allowed are {allowed}")
    return value


def _password_hash(value: str) -> str:
    if not value.startswith("$argon2"):
        raise ValueError("allowed is what `dicom-node web-password` prints; nobody could log in with this")
    return value


class WebUser(Section):
    """Who may log in. `dicom-node web-password` prints the hash. Without users only the health routes answer."""

    name: str = Field(description="login name")
    password_hash: Annotated[str, AfterValidator(_password_hash)] = Field(description="argon2id hash of the password")
    role: Role = Field(
        default=Role.VIEWER,
        description='"viewer", "radiologist" (gives feedback) or "administrator" (retries, reprocesses)',
    )


class WebSection(Section):
    """The pages. Without users and without trusted_header nobody can log in."""

    enabled: bool = Field(default=True, description="serve the pages")
    host: str = Field(
        default="127.0.0.1", min_length=1, description="address to listen on; keep it local or behind a reverse proxy"
    )
    port: ListenPort = Field(default=8080, description="HTTP port; 0: any free one")
    users: tuple[WebUser, ...] = Field(
        default=(),
        description="users of the pages",
        examples=[[{"name": "reader", "password_hash": "$argon2id$…", "role": "radiologist"}]],
    )
    trusted_header: str | None = Field(
        default=None,
        description="header in which a reverse proxy that did the login names the user",
        examples=["X-Remote-User"],
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(IPv4Network("127.0.0.1/32"),), description="addresses from which trusted_header is believed"
    )
    header_role: Role = Field(default=Role.VIEWER, description="role of users that only the proxy knows")
    metrics_addresses: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(IPv4Network("127.0.0.1/32"),), description="addresses that may read /metrics without a login"
    )
    session_hours: float = Field(default=10.0, gt=0, description="a login lasts this long")
    secure_cookie: bool = Field(default=False, description="true if the proxy speaks HTTPS")
    viewer_url: Annotated[str, AfterValidator(_viewer_url)] | None = Field(
        default=None,
        description="link to the site's viewer; may hold {study_instance_uid}, {accession_number}, {patient_id}",
        examples=["https://pacs.example.org/viewer?StudyInstanceUIDs={study_instance_uid}"],
    )


class RetentionSection(Section):
    """Removal of old data. Nothing is removed before it is proven delivered (docs/administration.md)."""

    every_seconds: float = Field(
        default=3600.0, ge=1, description="how often it is decided; a full disk does not wait for it"
    )
    keep_days: float = Field(
        default=0.0, ge=0, description="images and results older than this are removed; 0: keep all"
    )
    keep_as_prior_days: float = Field(default=1825.0, ge=0, description="images are kept as priors for this long")
    max_gigabytes: float = Field(default=0.0, ge=0, description="limit on the size of all images; 0: none")
    keep_free_percent: float = Field(
        default=10.0, ge=0, le=50, description="with less free disk space than this the oldest studies are removed"
    )
    emergency_free_percent: float = Field(
        default=3.0, ge=0, le=50, description="with less than this priors are removed too"
    )
    audit_days: float = Field(default=2190.0, gt=0, description="audit messages are kept for this long")
    shadow_days: float = Field(
        default=180.0, gt=0, description="answers of a challenger in the shadow are kept for this long"
    )

    @model_validator(mode="after")
    def _emergency_is_the_lower_limit(self) -> RetentionSection:
        if self.emergency_free_percent > self.keep_free_percent:
            raise ValueError(
                f"emergency_free_percent ({self.emergency_free_percent:g}) must be at most "
                f"keep_free_percent ({self.keep_free_percent:g})"
            )
        return self


class AuditSection(Section):
    """Audit messages (PS3.15 section A.5): where they go beside the database."""

    host: str | None = Field(
        default=None, description="syslog collector (RFC 5425, or TCP)", examples=["syslog.example"]
    )
    port: Port = Field(default=6514, description="its port", examples=[6514])
    transport: Literal["tls", "tcp"] = Field(default="tls", description='"tls" or "tcp"', examples=["tls"])
    tls: TlsClient | None = Field(
        default=None, description="TLS towards the collector", examples=[{"ca": "syslog-ca.crt"}]
    )
    site: str = Field(default="", description="AuditEnterpriseSiteID")

    @model_validator(mode="after")
    def _tls_needs_authority(self) -> AuditSection:
        if self.host and self.transport == "tls" and self.tls is None:
            raise ValueError('transport = "tls" needs [audit.tls] with ca')
        return self


class NotifySection(Section):
    """Who is told about failed jobs, disk space, quarantine and model changes. No patient data is sent."""

    webhook_url: WebAddress | None = Field(
        default=None, description="address that receives a JSON message", examples=["https://chat.example/hook"]
    )
    email_to: tuple[str, ...] = Field(default=(), description="recipients", examples=[["pacs@example.org"]])
    email_from: str = Field(default="dicom-node@localhost", description="sender")
    smtp_host: str = Field(default="127.0.0.1", description="mail server")
    smtp_port: Port = Field(default=25, description="its port")
    smtp_starttls: bool = Field(default=False, description="use STARTTLS")
