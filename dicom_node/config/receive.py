"""The receiver: TLS, who may call, limits, and HL7."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dicom_node.config.types import AETitle, ListenPort, Port, Seconds, Section, refuse_duplicates
from dicom_node.dicom.storage_groups import StorageGroup
from dicom_node.dicom.uids import is_uid


class TlsSection(Section):
    """A second DICOM port with TLS (PS3.15 annex B, BCP 195). Optional."""

    port: ListenPort = Field(default=2762, description="DICOM port with TLS; 0: any free one")
    certificate: Path = Field(description="certificate of this node", examples=["node.crt"])
    key: Path = Field(description="its private key", examples=["node.key"])
    ca: Path | None = Field(
        default=None, description="authority that signed the peers' certificates", examples=["ca.crt"]
    )
    client_certificate: Literal["required", "none"] = Field(
        default="required", description='"required" (mutual TLS) or "none"'
    )

    @model_validator(mode="after")
    def _client_needs_ca(self) -> TlsSection:
        if self.client_certificate == "required" and self.ca is None:
            raise ValueError('client_certificate = "required" needs ca')
        return self


class AccessSection(Section):
    """Who may open an association."""

    calling_ae_titles: tuple[AETitle, ...] = Field(default=(), description="AE titles that may call; empty: any")
    addresses: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), description='addresses they may call from, for example ["10.1.0.0/16"]; empty: any'
    )


def _storage_class(value: str) -> str:
    """A group's name or a UID."""
    if value not in set(StorageGroup) and not is_uid(value):
        raise ValueError(f"not a SOP class UID and not one of {', '.join(StorageGroup)}")
    return value


StorageClass = Annotated[str, AfterValidator(_storage_class)]


WANTED_CLASSES = (StorageGroup.RADIOGRAPHY, StorageGroup.REPORTS, StorageGroup.PRESENTATION)


class ReceivePeer(Section):
    """Rules for one calling AE. Optional; repeat the table for each."""

    ae_title: AETitle = Field(description="its AE title")
    addresses: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), description="addresses it may call from; empty: all that [access] allows"
    )
    store: bool = Field(default=True, description="may send instances")
    query: bool = Field(default=True, description="may query by C-FIND")
    reject: bool = Field(
        default=False,
        description="its rejection notes withdraw images; destinations and query peers, at their hosts, always may",
    )
    report: bool = Field(
        default=False,
        description="its reports become feedback; destinations and query peers, at their hosts, always may",
    )
    commit: bool = Field(default=True, description="may ask for storage commitment")
    sop_classes: tuple[StorageClass, ...] | None = Field(
        default=None, description="SOP classes it may send; default: those of [receive]"
    )
    purpose: Literal["routed", "prior"] = Field(
        default="routed", description='"routed": what it sends is analysed; "prior": only compared with'
    )
    host: str = Field(
        default="", description="where its commitment reports (N-EVENT-REPORT) are sent when its association has ended"
    )
    port: Port = Field(default=104, description="port of that host")


class ReceiveSection(Section):
    """Limits of the receiver. A peer that exceeds a time is disconnected."""

    sop_classes: tuple[StorageClass, ...] = Field(
        default=WANTED_CLASSES,
        description='accepted storage SOP classes: "radiography", "reports", "presentation", "all", or UIDs',
    )
    called_ae_title: Literal["required", "any"] = Field(
        default="required", description='"any": accept associations that call this node by another title'
    )
    max_associations: int = Field(
        default=64,
        ge=1,
        le=1000,
        description="associations at once, per receiver process",
        json_schema_extra={"unit": "associations"},
    )
    max_associations_per_address: int = Field(
        default=24,
        ge=1,
        le=1000,
        description="associations at once from one address",
        json_schema_extra={"unit": "associations"},
    )
    max_waiting: int = Field(
        default=256,
        ge=1,
        le=4096,
        description="connections that have not asked for an association; beyond it the oldest is closed",
        json_schema_extra={"unit": "connections"},
    )
    max_waiting_per_address: int = Field(
        default=32,
        ge=1,
        le=4096,
        description="such connections from one address",
        json_schema_extra={"unit": "connections"},
    )
    association_seconds: Seconds = Field(
        default=10.0, description="from the connection to the end of the A-ASSOCIATE-RQ, TLS handshake included"
    )
    idle_seconds: Seconds = Field(default=120.0, description="between two messages of an association")
    first_message_seconds: Seconds = Field(
        default=15.0, description="from the association to its first message, of a peer without a table of its own"
    )
    unnamed_store: bool = Field(default=True, description="AE titles without a table in receive.peers may store")
    unnamed_query: bool = Field(default=True, description="they may query: C-FIND discloses patients' names")
    dimse_seconds: Seconds = Field(default=30.0, description="for one PDU to arrive or leave")
    lifetime_seconds: Seconds = Field(default=14_400.0, description="for a whole association")
    min_bytes_per_second: int = Field(
        default=4096,
        ge=0,
        description="slowest message that is accepted after its first dimse_seconds",
        json_schema_extra={"unit": "bytes per second"},
    )
    pdu_bytes: int = Field(default=131_072, ge=4096, le=1 << 20, description="largest P-DATA-TF PDU that is accepted")
    max_instance_mib: int = Field(default=1024, ge=1, description="largest instance")
    min_free_mib: int = Field(
        default=1024, ge=0, description="with less free disk space than this C-STORE is answered with A700H"
    )
    peers: tuple[ReceivePeer, ...] = Field(
        default=(),
        description="rules for single peers",
        examples=[[{"ae_title": "MODALITY", "purpose": "routed", "store": True, "query": True}]],
    )

    @model_validator(mode="after")
    def _one_rule_per_peer(self) -> ReceiveSection:
        refuse_duplicates("receive.peers", (peer.ae_title for peer in self.peers))
        return self


class Hl7Section(Section):
    """HL7 v2 reports (ORU^R01) over MLLP."""

    enabled: bool = Field(default=False, description="listen for HL7 messages")
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: ListenPort = Field(default=2575, description="MLLP port; 0: any free one")
    addresses: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(IPv4Network("127.0.0.1/32"),), description="addresses that may connect; empty: any"
    )
    max_message_kib: int = Field(default=1024, ge=4, le=65536, description="largest message")
    max_connections: int = Field(
        default=16, ge=1, le=1000, description="connections at once", json_schema_extra={"unit": "connections"}
    )
    idle_seconds: Seconds = Field(default=600.0, description="between two messages")
    message_seconds: Seconds = Field(default=30.0, description="for one message to arrive once it has begun")
    charset: Literal["ascii", "utf-8", "iso-8859-1", "iso-8859-15", "cp1252"] = Field(
        default="utf-8", description="character set of messages that name none in MSH-18"
    )
