"""Who somebody is by the claims of a provider (OpenID Connect), and the values of one attempt to log in. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dicom_node.config import OidcSection, Role
from dicom_node.dicom.text import without_controls
from dicom_node.errors import NodeError


class LogInError(NodeError):
    """The provider did not say who somebody is, or says that they have no role here. The text is for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogInAttempt:
    """The values that bind the provider's answer to the browser that asked."""

    state: str = field(default_factory=secrets.token_urlsafe)
    nonce: str = field(default_factory=secrets.token_urlsafe)
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    wanted: str = "/"
    """The page to show afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedInIdentity:
    """Somebody whom the provider knows."""

    name: str
    role: Role
    subject: str


def identity_of(claims: Mapping[str, Any], settings: OidcSection) -> SignedInIdentity:
    """Name and role of whom the claims are about. Raises LogInError where either is missing."""
    name = without_controls(str(claims.get(settings.name_claim) or "")).strip()[:255]
    if not name:
        raise LogInError(f"the provider gives no claim {settings.name_claim!r}; set oidc.name_claim")
    # From the strongest role down: whoever is in several groups has the rights of them all.
    groups = set(values_at(claims, settings.role_claim) or ())
    for role, role_groups in (
        (Role.ADMINISTRATOR, settings.administrators),
        (Role.RADIOLOGIST, settings.radiologists),
        (Role.VIEWER, settings.viewers),
    ):
        if groups & set(role_groups):
            return SignedInIdentity(name=name, role=role, subject=str(claims["sub"])[:255])
    raise LogInError(
        f"{name} is known to the provider but has no role here; an administrator gives one by a group of the claim"
        f" {settings.role_claim!r}"
    )


def values_at(claims: Mapping[str, Any], name: str) -> list[str] | None:
    """The values of a claim, by its whole name or along its dots; None where it is missing."""
    # The whole name first: claim names may hold dots themselves ("https://site.example/roles").
    claimed: Any = claims.get(name)
    if claimed is None:
        claimed = claims
        for part in name.split("."):
            claimed = claimed.get(part) if isinstance(claimed, Mapping) else None
    if claimed is None:
        return None
    return [str(element) for element in claimed] if isinstance(claimed, list) else [str(claimed)]
