"""The node's settings: one TOML file, every key typed, every wrong one refused by name with what is allowed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from enum import StrEnum
from importlib import resources
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from dicom_node.dicom.storage_groups import StorageGroup
from dicom_node.dicom.uids import is_uid
from dicom_node.errors import ConfigurationError
from dicom_node.weekly_window import parse_schedule

DEFAULT_CONFIG = Path("config.toml")
CONFIG_VARIABLE = "DICOM_NODE_CONFIG"
SECRET_KEYS = ("url", "password_hash", "webhook_url")
"""Of which an error does not repeat the value: tokens and passwords stand in them."""


def _ae_title(value: str) -> str:
    """PS3.5 section 6.2, VR AE: at most 16 characters of the default repertoire, no backslash, not only spaces."""
    stripped = value.strip()
    if not 1 <= len(stripped) <= 16 or "\\" in stripped or any(not 32 <= ord(c) < 127 for c in stripped):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters without a backslash")
    return stripped


def _peer_name(value: str) -> str:
    """It stands in job keys, pages' addresses and database columns."""
    if not 1 <= len(value) <= 64 or any(c in ":/\\" or not c.isprintable() for c in value) or value != value.strip():
        raise ValueError("a name has 1 to 64 printable characters without colon and slash, and no space at its ends")
    return value


def _web_address(value: str) -> str:
    parsed = urlsplit(value)
    if parsed.scheme not in ("http", "https") or not parsed.hostname:
        raise ValueError("allowed are addresses such as https://archive.example/dicom-web")
    return value


WebAddress = Annotated[str, AfterValidator(_web_address)]
PeerName = Annotated[str, AfterValidator(_peer_name)]
AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A table of the file; refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Verify(StrEnum):
    """What counts as proof that a destination holds a document."""

    COMMITMENT = "commitment"
    """Storage Commitment (PS3.4 annex J)."""
    FIND = "find"
    """A C-FIND at IMAGE level finds the SOP instance."""
    NONE = "none"
    """The C-STORE status alone."""


class Retrieve(StrEnum):
    """How a prior is fetched."""

    MOVE = "move"
    GET = "get"
    DICOMWEB = "dicomweb"


def _language(value: str) -> str:
    """A tag such as "de" or "de-AT" whose language has a catalogue (dicom_node.report.wording.catalogue)."""
    folder = resources.files("dicom_node").joinpath("report", "locales")
    known = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if value.lower().replace("_", "-").split("-")[0] not in known:
        raise ValueError(f"reports are written in {', '.join(known)}")
    return value


class NodeSection(Section):
    ae_title: AETitle = "LUMEN"
    host: str = "0.0.0.0"
    port: ListenPort = 11112
    data_dir: Path = Path("data")
    language: Annotated[str, AfterValidator(_language)] = "en"
    receivers: Annotated[int, Field(ge=1, le=32)] = 1


def _database_url(value: str) -> str:
    if not value.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise ValueError('allowed are "sqlite:///FILE" and "postgresql+psycopg://USER@HOST/NAME"')
    return value


class DatabaseSection(Section):
    url: Annotated[str, AfterValidator(_database_url)] = "sqlite:///data/index.db"


class CompletionSection(Section):
    quiet_seconds: Annotated[float, Field(ge=0)] = 60.0
    deadline_seconds: Seconds = 5400.0
    count_seconds: Annotated[float, Field(ge=0)] = 15.0


DEMO = "demo"
"""[model] source of the bundled checkpoint, whatever folders there are."""


class ModelSection(Section):
    """source: "demo", a folder, or a Hub id; that needs revision, the 40 hexadecimal digits of a commit. findings:
    ontology keys that a checkpoint without a manifest of ours, or a served model, may be asked.

    shadow: a checkpoint of the models folder that answers live studies unheard. standby: the champion before this one
    stays loaded, so that a rollback takes effect at once; costs its memory. experts: folder of a classifier
    (`model.experts.expert`) whose words stand in the prompt of checkpoints that were trained with them; no others
    see them. scoring: how a served model's closed questions are scored (docs/remote-model.md).
    """

    source: str = DEMO
    findings: tuple[str, ...] = ()
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    backend: Literal["transformers", "openai"] = "transformers"
    trust_remote_code: bool = False
    device: str = "cpu"
    timeout_seconds: Seconds = 300.0
    memory_limit_bytes: Annotated[int, Field(gt=0)] | None = None
    base_url: str | None = None
    api_key_file: Path | None = None
    scoring: Literal["top_logprobs", "prompt_logprobs"] = "top_logprobs"
    experts: Path | None = None
    studies_at_once: Annotated[int, Field(ge=1, le=32)] = 1
    shadow: str = ""
    shadow_nice: Annotated[int, Field(ge=0, le=19)] = 19
    standby: bool = True

    @model_validator(mode="after")
    def _remote_needs_url(self) -> ModelSection:
        if self.backend == "openai" and not self.base_url:
            raise ValueError('backend = "openai" needs base_url')
        if self.backend == "openai" and self.experts is not None:
            raise ValueError('experts needs backend = "transformers": a served model does not say how it was trained')
        return self


class TlsClient(Section):
    """TLS towards a peer: the authority that signed it and, for mutual TLS, our own certificate."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


class Destination(Section):
    """Where results go: a DICOM peer, or with `url` a STOW-RS service (PS3.18 section 10.5).

    documents, outcomes: which documents of which results this destination gets.
    same_association_seconds: how long the association stays open for a commitment report on it; 0 for a peer that
    always opens its own.
    """

    name: PeerName
    ae_title: AETitle = "ANY-SCP"
    host: str = "127.0.0.1"
    port: Port = 104
    verify: Verify = Verify.COMMITMENT
    tls: TlsClient | None = None
    url: WebAddress | None = None
    token_file: Path | None = None
    documents: tuple[Literal["machine", "reading", "pdf", "capture"], ...] = ("machine", "reading")
    outcomes: tuple[Literal["compared", "findings only", "not analysed"], ...] = (
        "compared",
        "findings only",
        "not analysed",
    )
    same_association_seconds: Annotated[float, Field(ge=0)] = 0.5

    @model_validator(mode="after")
    def _web_has_no_commitment(self) -> Destination:
        if self.url and self.verify is Verify.COMMITMENT:
            raise ValueError('a destination with url (STOW-RS) takes verify = "find" (QIDO-RS) or "none"')
        return self


class QueryPeer(Section):
    """Where priors may be asked for and fetched from."""

    name: PeerName
    ae_title: AETitle = "ANY-SCP"
    host: str = "127.0.0.1"
    port: Port = 104
    retrieve: Retrieve = Retrieve.MOVE
    url: WebAddress | None = None
    token_file: Path | None = None
    tls: TlsClient | None = None
    names_originator: bool = True

    @model_validator(mode="after")
    def _web_needs_url(self) -> QueryPeer:
        if self.retrieve is Retrieve.DICOMWEB and not self.url:
            raise ValueError('retrieve = "dicomweb" needs url')
        return self


class TlsSection(Section):
    """The optional second port, with TLS by PS3.15 annex B (BCP 195)."""

    port: ListenPort = 2762
    certificate: Path
    key: Path
    ca: Path | None = None
    client_certificate: Literal["required", "none"] = "required"

    @model_validator(mode="after")
    def _client_needs_ca(self) -> TlsSection:
        if self.client_certificate == "required" and self.ca is None:
            raise ValueError('client_certificate = "required" needs ca')
        return self


class AccessSection(Section):
    calling_ae_titles: tuple[AETitle, ...] = ()
    addresses: tuple[IPv4Network | IPv6Network, ...] = ()


class DeliverySection(Section):
    """How patiently results are delivered. A destination that is down only delays: 60 attempts last two days."""

    connect_seconds: Seconds = 10.0
    response_seconds: Seconds = 60.0
    proof_timeout_seconds: Seconds = 900.0
    max_attempts: Annotated[int, Field(ge=1)] = 60
    refused_attempts: Annotated[int, Field(ge=1)] = 5


class RetentionSection(Section):
    """What may be removed, and when. Nothing is removed that is not proven delivered (docs/administration.md).

    every_seconds: how often it looks. keep_days: images and results older than this go; 0: kept for ever.
    max_gigabytes: 0: no limit by size.
    keep_free_percent: the disk watermark. emergency_free_percent: below it priors go too.
    """

    every_seconds: Annotated[float, Field(ge=1)] = 3600.0
    keep_days: Annotated[float, Field(ge=0)] = 0.0
    keep_as_prior_days: Annotated[float, Field(ge=0)] = 1825.0
    max_gigabytes: Annotated[float, Field(ge=0)] = 0.0
    keep_free_percent: Annotated[float, Field(ge=0, le=50)] = 10.0
    emergency_free_percent: Annotated[float, Field(ge=0, le=50)] = 3.0
    audit_days: Annotated[float, Field(gt=0)] = 2190.0
    shadow_days: Annotated[float, Field(gt=0)] = 180.0


class AuditSection(Section):
    """Where audit messages (PS3.15 section A.5) go beside the database: a syslog collector by RFC 5425 or TCP."""

    host: str | None = None
    port: Port = 6514
    transport: Literal["tls", "tcp"] = "tls"
    tls: TlsClient | None = None
    site: str = ""

    @model_validator(mode="after")
    def _tls_needs_authority(self) -> AuditSection:
        if self.host and self.transport == "tls" and self.tls is None:
            raise ValueError('transport = "tls" needs [audit.tls] with ca')
        return self


class NotifySection(Section):
    """Who is told of a dead letter, a full disk, quarantine and a model change. No patient data goes out."""

    webhook_url: WebAddress | None = None
    email_to: tuple[str, ...] = ()
    email_from: str = "dicom-node@localhost"
    smtp_host: str = "127.0.0.1"
    smtp_port: Port = 25
    smtp_starttls: bool = False


def _schedule(value: str) -> str:
    if value:
        parse_schedule(value)
    return value


def _timezone(value: str) -> str:
    try:
        if value:
            ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError('a time zone is an IANA name such as "Europe/Berlin"') from None
    return value


class RetrainSection(Section):
    """How the node learns from its own studies (docs/retraining.md). `dicom-node retrain` reads it.

    recipe: a training recipe; None: training/recipes/retrain.toml. folder: snapshots, runs and their pages; None:
    "retrain" below data_dir. min_patients: with fewer labelled patients on the training side nothing is trained.
    frozen_patients: so many are set aside for ever to compare models on. frozen_share: so many of the new patients go
    there until it has its size. validate_share: of the training side held back for calibration.
    calibrate_with: data sets beside the held-back part, as `dicom-node evaluate --data` names them. known_pairs: of
    phantoms whose answers must stay right.
    margin: how far no finding may fall. alpha: level of significance of the main figure. calibration_margin: how far
    the calibration error may rise. consistency_margin, consistency_floor: agreement with the swapped pair and with the
    same film twice may fall by the margin, or further while it stays above the floor.
    device: "cpu" or "cuda"; threads, nice: of the training process.
    schedule: when the node trains by itself, such as "mon-fri 01:00-05:00"; "": never. timezone: of those times, an
    IANA name; "": the machine's own.
    """

    recipe: Path | None = None
    folder: Path | None = None
    promote: Literal["auto", "ask", "never"] = "ask"
    min_patients: Annotated[int, Field(ge=1)] = 200
    frozen_patients: Annotated[int, Field(ge=1)] = 100
    frozen_share: Annotated[float, Field(gt=0, lt=1)] = 0.35
    validate_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    calibrate_with: tuple[str, ...] = ("phantom:100@8000000",)
    known_pairs: Annotated[int, Field(ge=0)] = 30
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.05
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    calibration_margin: Annotated[float, Field(ge=0, lt=1)] = 0.02
    consistency_margin: Annotated[float, Field(ge=0, lt=1)] = 0.02
    consistency_floor: Annotated[float, Field(ge=0, le=1)] = 0.9
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, Field(ge=1)] = 1
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    schedule: Annotated[str, AfterValidator(_schedule)] = ""
    timezone: Annotated[str, AfterValidator(_timezone)] = ""


class DriftSection(Section):
    """Weekly figures of input and output against their baseline (docs/model-lifecycle.md).

    baseline: what the answers are held against, the first weeks of the checkpoint here or, where its manifest has one,
    what it said of the validation set that it was calibrated on. baseline_weeks: the first so many weeks with enough
    pairs are the baseline. min_pairs: a week with fewer is not judged. false_alarms: chance that all figures of one
    week together raise an alarm though nothing has changed.
    """

    baseline: Literal["first-weeks", "validation"] = "first-weeks"
    baseline_weeks: Annotated[int, Field(ge=1, le=52)] = 4
    min_pairs: Annotated[int, Field(ge=20)] = 50
    false_alarms: Annotated[float, Field(gt=0, lt=0.5)] = 0.01


class LoggingSection(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Role(StrEnum):
    """What somebody may do on the pages; each includes those before it."""

    VIEWER = "viewer"
    """Sees the work list and the studies."""
    RADIOLOGIST = "radiologist"
    """Gives feedback."""
    ADMINISTRATOR = "administrator"
    """Retries, reprocesses, resends."""


def _password_hash(value: str) -> str:
    if not value.startswith("$argon2"):
        raise ValueError("allowed is what `dicom-node web-password` prints; nobody could log in with this")
    return value


class WebUser(Section):
    """Somebody who may log in. `dicom-node web-password` prints the hash (argon2id)."""

    name: str
    password_hash: Annotated[str, AfterValidator(_password_hash)]
    role: Role = Role.VIEWER


def _storage_class(value: str) -> str:
    """A group's name or a UID."""
    if value not in set(StorageGroup) and not is_uid(value):
        raise ValueError(f"not a SOP class UID and not one of {', '.join(StorageGroup)}")
    return value


StorageClass = Annotated[str, AfterValidator(_storage_class)]
WANTED_CLASSES = (StorageGroup.RADIOGRAPHY, StorageGroup.REPORTS, StorageGroup.PRESENTATION)


class ReceivePeer(Section):
    """What one calling AE may do, and where it is reached when it asked for storage commitment."""

    ae_title: AETitle
    addresses: tuple[IPv4Network | IPv6Network, ...] = ()
    """From where this AE may call; empty: from anywhere that [access] allows."""
    store: bool = True
    query: bool = True
    sop_classes: tuple[StorageClass, ...] | None = None
    """None: those of [receive]."""
    purpose: Literal["routed", "prior"] = "routed"
    """What this AE sends is analysed ("routed") or only compared with ("prior")."""
    host: str = ""
    port: Port = 104
    """With a host: where N-EVENT-REPORT is sent when the association that asked is gone."""


class ReceiveSection(Section):
    """Limits and rules of the receiver. Every time is a deadline after which the peer is cut off."""

    sop_classes: tuple[StorageClass, ...] = WANTED_CLASSES
    called_ae_title: Literal["required", "any"] = "required"
    max_associations: Annotated[int, Field(ge=1, le=1000)] = 64
    """At once, per receiver process."""
    max_associations_per_address: Annotated[int, Field(ge=1, le=1000)] = 24
    max_waiting: Annotated[int, Field(ge=1, le=4096)] = 256
    """Connections that have not yet asked for an association; beyond it the oldest one goes."""
    max_waiting_per_address: Annotated[int, Field(ge=1, le=4096)] = 32
    association_seconds: Seconds = 10.0
    """From the connection to the whole A-ASSOCIATE-RQ, TLS handshake included."""
    idle_seconds: Seconds = 120.0
    """Between two messages of an association."""
    dimse_seconds: Seconds = 30.0
    """For one PDU to arrive or leave once it began; and before `min_bytes_per_second` is asked for."""
    lifetime_seconds: Seconds = 14_400.0
    """For one association as a whole."""
    min_bytes_per_second: Annotated[int, Field(ge=0)] = 4096
    """A message that comes slower, after the first dimse_seconds, is a drip feed."""
    pdu_bytes: Annotated[int, Field(ge=4096, le=1 << 20)] = 131_072
    """The largest P-DATA PDU that we take; larger ones end the association."""
    max_instance_mib: Annotated[int, Field(ge=1)] = 1024
    min_free_mib: Annotated[int, Field(ge=0)] = 1024
    """Below so much free disk C-STORE is answered with A700H."""
    peers: tuple[ReceivePeer, ...] = ()

    @model_validator(mode="after")
    def _one_rule_per_peer(self) -> ReceiveSection:
        _unique("receive.peers", (peer.ae_title for peer in self.peers))
        return self


class PriorsSection(Section):
    """Which earlier image may be compared with, and how it is fetched (dicom_node.priors)."""

    look_back_days: Annotated[int, Field(ge=1, le=36_525)] = 1826
    same_view_days: Annotated[int, Field(ge=0, le=36_525)] = 365
    max_images: Annotated[int, Field(ge=1, le=32)] = 4
    allow_changed_family_name: bool = False
    allow_for_processing: bool = False
    default_issuer: str = ""
    merged_ids: Path | None = None
    fetch_studies: Annotated[int, Field(ge=0, le=50)] = 3
    fetch_instances: Annotated[int, Field(ge=1, le=1000)] = 20
    query_seconds: Seconds = 20.0
    retrieve_seconds: Seconds = 120.0
    wait_seconds: Annotated[float, Field(ge=0)] = 300.0
    retry_seconds: Annotated[float, Field(ge=0)] = 0.0
    retry_times: Annotated[int, Field(ge=0, le=100)] = 3


class WebSection(Section):
    """The pages. Without users and without trusted_header nobody can log in, and only health answers.

    trusted_header: the header in which a reverse proxy that did the login names the user; believed only from
    trusted_proxies. header_role: the role of users known only to the proxy.
    metrics_addresses: who may read /metrics without a login.
    """

    enabled: bool = True
    host: str = "127.0.0.1"
    port: ListenPort = 8080
    users: tuple[WebUser, ...] = ()
    trusted_header: str | None = None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("127.0.0.1/32"),)
    header_role: Role = Role.VIEWER
    metrics_addresses: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("127.0.0.1/32"),)
    session_hours: Annotated[float, Field(gt=0)] = 10.0
    secure_cookie: bool = False


class FeedbackSection(Section):
    """What radiologists' reports are used for (docs/feedback.md).

    reports: read the reports that come in, by C-STORE or HL7. labeller: "rules" (model/labeller/word_list.toml) or
    "llm", a language model behind an OpenAI-compatible server. wait_days: how long an unmatched report is looked at
    again.
    """

    reports: bool = True
    labeller: Literal["rules", "llm"] = "rules"
    llm_base_url: str | None = None
    llm_model: str = ""
    llm_api_key_file: Path | None = None
    llm_seconds: Seconds = 120.0
    wait_days: Annotated[float, Field(ge=0)] = 30.0

    @model_validator(mode="after")
    def _llm_needs_a_server(self) -> FeedbackSection:
        if self.labeller == "llm" and not (self.llm_base_url and self.llm_model):
            raise ValueError('labeller = "llm" needs llm_base_url and llm_model')
        return self


class Hl7Section(Section):
    """The listener for HL7 v2 ORU^R01 reports over MLLP.

    addresses: who may connect; empty: any. charset: of messages that name none in MSH-18. idle_seconds: between two
    messages. message_seconds: for one message to arrive once it began.
    """

    enabled: bool = False
    host: str = "127.0.0.1"
    port: ListenPort = 2575
    addresses: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("127.0.0.1/32"),)
    max_message_kib: Annotated[int, Field(ge=4, le=65_536)] = 1024
    max_connections: Annotated[int, Field(ge=1, le=1000)] = 16
    idle_seconds: Seconds = 600.0
    message_seconds: Seconds = 30.0
    charset: Literal["ascii", "utf-8", "iso-8859-1", "iso-8859-15", "cp1252"] = "utf-8"


def _unique(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"two [[{kind}]] tables are named {name!r}; each needs its own name")
        seen.add(name)


class Settings(Section):
    """All settings. Paths are relative to the folder of the configuration file."""

    node: NodeSection = NodeSection()
    database: DatabaseSection = DatabaseSection()
    completion: CompletionSection = CompletionSection()
    priors: PriorsSection = PriorsSection()
    model: ModelSection = ModelSection()
    destinations: tuple[Destination, ...] = ()
    query: tuple[QueryPeer, ...] = ()
    tls: TlsSection | None = None
    access: AccessSection = AccessSection()
    receive: ReceiveSection = ReceiveSection()
    web: WebSection = WebSection()
    logging: LoggingSection = LoggingSection()
    delivery: DeliverySection = DeliverySection()
    retention: RetentionSection = RetentionSection()
    audit: AuditSection = AuditSection()
    notify: NotifySection = NotifySection()
    feedback: FeedbackSection = FeedbackSection()
    hl7: Hl7Section = Hl7Section()
    retrain: RetrainSection = RetrainSection()
    drift: DriftSection = DriftSection()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Settings:
        _unique("destinations", (d.name for d in self.destinations))
        _unique("query", (q.name for q in self.query))
        return self


def config_path(given: Path | None) -> Path:
    """The file to read: the given one, else the variable DICOM_NODE_CONFIG, else ./config.toml."""
    if given is not None:
        return given
    return Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))


def load_settings(path: Path) -> Settings:
    """Read and check the file. Raises ConfigurationError naming file, key, what was given and what is allowed."""
    try:
        raw = tomllib.loads(path.read_text("utf-8")) if path.is_file() else None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8: byte {error.start} cannot be read") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if raw is None:
        raise ConfigurationError(f"{path}: no such file; make one with `dicom-node init`, or name one with --config")
    try:
        return _anchored(Settings(**raw), path.resolve().parent)
    except ValidationError as error:
        lines = list(dict.fromkeys(_explain(item) for item in error.errors(include_url=False)))
        raise ConfigurationError(f"{path}:\n  " + "\n  ".join(lines)) from error


def _anchored(settings: Settings, folder: Path) -> Settings:
    """Make relative paths absolute against the folder of the file, so that the working directory does not matter."""
    anchored: Settings = _below(settings, folder)
    url, prefix = settings.database.url, "sqlite:///"
    if "url" not in settings.database.model_fields_set:  # the index lies with what it indexes, wherever that is
        database = DatabaseSection(url=f"{prefix}{anchored.node.data_dir / 'index.db'}")
        anchored = anchored.model_copy(update={"database": database})
    elif url.startswith(prefix) and not url.startswith(prefix + "/") and url != prefix + ":memory:":
        database = DatabaseSection(url=f"{prefix}{folder / url.removeprefix(prefix)}")
        anchored = anchored.model_copy(update={"database": database})
    source = settings.model.source
    if settings.model.backend == "transformers" and source != DEMO and (folder / source).is_dir():
        model = anchored.model.model_copy(update={"source": str(folder / source)})
        anchored = anchored.model_copy(update={"model": model})
    return anchored


def _below(value: Any, folder: Path) -> Any:
    """The same value with every relative path in it below `folder`."""
    if isinstance(value, BaseModel):
        return value.model_copy(
            update={name: _below(getattr(value, name), folder) for name in type(value).model_fields}
        )
    if isinstance(value, tuple):
        return tuple(_below(item, folder) for item in value)
    return folder / value if isinstance(value, Path) else value


def _explain(item: Any) -> str:
    """One line of a validation error: the key, what is wrong, what is allowed."""
    # pydantic names its own branches where a value may be of two kinds.
    key = ".".join(str(part) for part in item["loc"] if "[" not in str(part))
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in ("ip_v4_network", "ip_v6_network"):
        message = "Input should be an address or a network, such as 10.1.2.3 or 10.1.0.0/16"
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; allowed here: {', '.join(_allowed_keys(item['loc']))}"
    # What is secret is not repeated: a database's URL may hold a password.
    silent = item["type"] == "missing" or isinstance(item["input"], dict) or key.rpartition(".")[2] in SECRET_KEYS
    given = "" if silent else f" (given: {item['input']!r})"
    return f"{key}: {message}{given}"


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys that may stand where an unknown one was found."""
    here: Any = Settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        field = here.model_fields.get(part)
        if field is None:
            break
        here = _model_of(field.annotation)
    return sorted(here.model_fields)


def _model_of(annotation: Any) -> Any:
    """The Section class inside `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_of(argument)
        if found is not None:
            return found
    return None
