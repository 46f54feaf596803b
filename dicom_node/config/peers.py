"""Peers: destinations of results and archives with priors."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dicom_node.config.types import AETitle, PeerName, Port, Seconds, Section, WebAddress


class Verify(StrEnum):
    """Proof that a destination holds a document."""

    COMMITMENT = "commitment"
    """Storage Commitment (PS3.4 annex J)."""
    FIND = "find"
    """A C-FIND at IMAGE level finds the SOP instance."""
    NONE = "none"
    """The C-STORE status alone."""


class Retrieve(StrEnum):
    """The service by which a prior is fetched."""

    MOVE = "move"
    GET = "get"
    DICOMWEB = "dicomweb"


class TlsClient(Section):
    """TLS towards a peer."""

    ca: Path = Field(description="certificate authority that signed the peer's certificate")
    certificate: Path | None = Field(default=None, description="certificate of this node, for mutual TLS")
    key: Path | None = Field(default=None, description="its private key")


class Destination(Section):
    """Where results go: a DICOM peer, or with url a STOW-RS service (PS3.18 section 10.5). Repeat it for each."""

    name: PeerName = Field(description="unique name; appears in jobs, pages and logs")
    ae_title: AETitle = Field(default="ANY-SCP", description="AE title of the peer")
    host: str = Field(default="127.0.0.1", min_length=1, description="host name or address")
    port: Port = Field(default=104, description="DICOM port")
    verify: Verify = Field(
        default=Verify.COMMITMENT,
        description='proof of storage: "commitment", "find" (C-FIND or QIDO-RS) or "none" (the C-STORE status alone)',
    )
    tls: TlsClient | None = Field(default=None, description="TLS; certificate and key for mutual TLS")
    url: WebAddress | None = Field(
        default=None,
        description='address of a STOW-RS service, instead of host and port; verify is then "find" or "none"',
    )
    token_file: Path | None = Field(default=None, description="file with the service's bearer token")
    documents: tuple[Literal["machine", "reading", "pdf", "capture"], ...] = Field(
        default=("machine", "reading"), description="documents of a result that are sent"
    )
    outcomes: tuple[Literal["compared", "findings only", "not analysed"], ...] = Field(
        default=("compared", "findings only", "not analysed"), description="outcomes whose results are sent"
    )
    same_association_seconds: float = Field(
        default=0.5,
        ge=0,
        description="how long the association stays open for the commitment report; 0: the peer opens its own",
    )

    @model_validator(mode="after")
    def _web_has_no_commitment(self) -> Destination:
        if self.url and self.verify is Verify.COMMITMENT:
            raise ValueError('a destination with url (STOW-RS) takes verify = "find" (QIDO-RS) or "none"')
        return self


class QueryPeer(Section):
    """Where priors are searched and fetched. Optional; repeat the table for each archive."""

    name: PeerName = Field(description="unique name")
    ae_title: AETitle = Field(default="ANY-SCP", description="AE title of the archive")
    host: str = Field(default="127.0.0.1", min_length=1, description="host name or address")
    port: Port = Field(default=104, description="DICOM port")
    retrieve: Retrieve = Field(
        default=Retrieve.MOVE,
        description='"move": C-MOVE to this node; "get": C-GET; "dicomweb": QIDO-RS and WADO-RS at url',
    )
    url: WebAddress | None = Field(
        default=None, description='address of the DICOMweb service, for retrieve = "dicomweb"'
    )
    token_file: Path | None = Field(default=None, description="file with the service's bearer token")
    tls: TlsClient | None = Field(default=None, description="TLS; certificate and key for mutual TLS")
    names_originator: bool = Field(
        default=True, description="false: what it sends for a C-MOVE does not name this node as its originator"
    )

    @model_validator(mode="after")
    def _web_needs_url(self) -> QueryPeer:
        if self.retrieve is Retrieve.DICOMWEB and not self.url:
            raise ValueError('retrieve = "dicomweb" needs url')
        return self


class DeliverySection(Section):
    """Time limits and attempts of a delivery."""

    connect_seconds: Seconds = Field(default=10.0, description="limit on opening an association")
    response_seconds: Seconds = Field(default=60.0, description="limit on an answer")
    proof_timeout_seconds: Seconds = Field(
        default=900.0, description="without a commitment report for this long, ask by C-FIND or send again"
    )
    max_attempts: int = Field(
        default=60,
        ge=1,
        description="attempts before a delivery has failed; 60 take two days",
        json_schema_extra={"unit": "attempts"},
    )
    refused_attempts: int = Field(
        default=5,
        ge=1,
        description="attempts for a document that the destination refuses",
        json_schema_extra={"unit": "attempts"},
    )


class PriorsSection(Section):
    """The earlier image that a study may be compared with, and how it is fetched."""

    look_back_days: int = Field(
        default=1826, ge=1, le=36525, description="earlier images that are older than this are not compared"
    )
    same_view_days: int = Field(
        default=365,
        ge=0,
        le=36525,
        description="an image of the same view (PA, AP) is preferred unless it is older by more than this",
    )
    max_images: int = Field(
        default=4, ge=1, le=32, description="frontal images analysed in one study", json_schema_extra={"unit": "images"}
    )
    max_priors: int = Field(
        default=7,
        ge=1,
        le=7,
        description="earlier images shown to a checkpoint that takes more than two; 1: the prior alone",
        json_schema_extra={"unit": "images"},
    )
    later_days: float = Field(
        default=7.0,
        ge=0,
        description="when an older study arrives late, studies up to this long after it are reported again; 0: none",
    )
    allow_changed_family_name: bool = Field(
        default=False, description="accept another family name if ID, birth date and given name agree"
    )
    allow_for_processing: bool = Field(default=False, description="use raw detector data if there is nothing else")
    default_issuer: str = Field(default="", description="issuer of patient IDs that name no issuer")
    merged_ids: Path | None = Field(
        default=None,
        description="merged patient IDs: CSV with old_id, old_issuer, new_id, new_issuer",
        examples=["merged.csv"],
    )
    fetch_studies: int = Field(
        default=3,
        ge=0,
        le=50,
        description="earlier studies fetched from the [[query]] peers for one patient; 0: none",
        json_schema_extra={"unit": "studies"},
    )
    fetch_instances: int = Field(
        default=20,
        ge=1,
        le=1000,
        description="a study with more instances than this is not fetched",
        json_schema_extra={"unit": "instances"},
    )
    query_seconds: Seconds = Field(default=20.0, description="a query that takes longer has failed")
    retrieve_seconds: Seconds = Field(
        default=120.0, description="a retrieval in which nothing arrives for this long has failed"
    )
    wait_seconds: float = Field(
        default=300.0, ge=0, description="a complete study waits this long at most for its priors to arrive"
    )
    retry_seconds: float = Field(
        default=0.0, ge=0, description="ask again this long after a failed fetch and send a new report; 0: do not"
    )
    retry_times: int = Field(
        default=3, ge=0, le=100, description="how often to ask again", json_schema_extra={"unit": "attempts"}
    )
