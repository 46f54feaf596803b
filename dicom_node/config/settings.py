"""All settings, and reading them from the file: a wrong key is refused by name, with what is allowed."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from dicom_node.config.chart import ChartSection
from dicom_node.config.models import DEMO, DriftSection, FeedbackSection, ModelSection, RetrainSection
from dicom_node.config.node import CompletionSection, DatabaseSection, LoggingSection, NodeSection
from dicom_node.config.oidc import OidcSection
from dicom_node.config.peers import DeliverySection, Destination, PriorsSection, QueryPeer
from dicom_node.config.receive import AccessSection, Hl7Section, ReceiveSection, TlsSection
from dicom_node.config.storage import StorageSection
from dicom_node.config.types import Section, refuse_duplicates
from dicom_node.config.upkeep import AuditSection, NotifySection, RetentionSection, WebSection
from dicom_node.errors import ConfigurationError

DEFAULT_CONFIG = Path("config.toml")
CONFIG_VARIABLE = "DICOM_NODE_CONFIG"
SECRET_KEYS = ("url", "password_hash", "webhook_url")
"""Keys whose values may hold tokens or passwords; an error text does not repeat them."""


class Settings(Section):
    """All settings. Paths are relative to the folder of the configuration file.

    The order of the tables here is their order in the template and in the reference.
    """

    node: NodeSection = NodeSection()
    database: DatabaseSection = DatabaseSection()
    storage: StorageSection = StorageSection()
    destinations: tuple[Destination, ...] = Field(
        default=(),
        examples=[
            {
                "name": "pacs",
                "ae_title": "ORTHANC",
                "host": "127.0.0.1",
                "port": 4242,
                "verify": "commitment",
                "documents": ["machine", "reading"],
                "outcomes": ["compared", "findings only", "not analysed"],
                "tls": {"ca": "pacs-ca.crt", "certificate": "node.crt", "key": "node.key"},
            },
            {
                "name": "archive",
                "url": "https://archive.example/dicom-web",
                "verify": "find",
                "token_file": "archive.token",
            },
        ],
    )
    query: tuple[QueryPeer, ...] = Field(
        default=(),
        examples=[
            {
                "name": "pacs",
                "ae_title": "ORTHANC",
                "host": "127.0.0.1",
                "port": 4242,
                "retrieve": "move",
                "names_originator": True,
            }
        ],
    )
    completion: CompletionSection = CompletionSection()
    priors: PriorsSection = PriorsSection()
    model: ModelSection = ModelSection()
    delivery: DeliverySection = DeliverySection()
    receive: ReceiveSection = ReceiveSection()
    tls: TlsSection | None = None
    access: AccessSection = AccessSection()
    web: WebSection = WebSection()
    oidc: OidcSection | None = None
    retention: RetentionSection = RetentionSection()
    audit: AuditSection = AuditSection()
    notify: NotifySection = NotifySection()
    retrain: RetrainSection = RetrainSection()
    drift: DriftSection = DriftSection()
    logging: LoggingSection = LoggingSection()
    feedback: FeedbackSection = FeedbackSection()
    hl7: Hl7Section = Hl7Section()
    chart: ChartSection = ChartSection()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Settings:
        refuse_duplicates("destinations", (destination.name for destination in self.destinations))
        refuse_duplicates("query", (peer.name for peer in self.query))
        refuse_duplicates("web.users", (user.name for user in self.web.users))
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Settings:
        listening = {"node.port": self.node.port}
        if self.web.enabled:
            listening["web.port"] = self.web.port
        if self.hl7.enabled:
            listening["hl7.port"] = self.hl7.port
        for key, port in listening.items():
            others = [other for other, its in listening.items() if its == port and other != key]
            if port and others:
                raise ValueError(f"{key} and {others[0]} are both {port}; each listener needs its own port")
        return self

    @model_validator(mode="after")
    def _no_destination_is_this_node(self) -> Settings:
        own_addresses = {"127.0.0.1", "::1", "localhost", self.node.host}
        for destination in self.destinations:
            if destination.url is None and destination.host in own_addresses and destination.port == self.node.port:
                raise ValueError(
                    f"destination {destination.name!r} is this node's own port {destination.port}: "
                    "reports would come back"
                )
        return self


def config_path(given: Path | None) -> Path:
    """The file to read: the given one, else the variable DICOM_NODE_CONFIG, else ./config.toml."""
    if given is not None:
        return given
    return Path(os.environ.get(CONFIG_VARIABLE, DEFAULT_CONFIG))


def load_settings(path: Path) -> Settings:
    """Read and check the file. Raises ConfigurationError naming file, key, what was given and what is allowed."""
    try:
        # Windows' editors begin a file with a byte order mark, which TOML does not know.
        raw = tomllib.loads(path.read_text("utf-8-sig")) if path.is_file() else None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8: byte {error.start} cannot be read") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if path.is_dir():
        raise ConfigurationError(f"{path}: a folder; name the file in it, such as {path / DEFAULT_CONFIG}")
    if raw is None:
        raise ConfigurationError(f"{path}: no such file; make one with `dicom-node init`, or name one with --config")
    try:
        return _with_absolute_paths(Settings(**raw), path.resolve().parent)
    except ValidationError as error:
        lines = list(dict.fromkeys(_error_line(item) for item in error.errors(include_url=False)))
        raise ConfigurationError(f"{path}:\n  " + "\n  ".join(lines)) from error


def _with_absolute_paths(settings: Settings, folder: Path) -> Settings:
    """Make relative paths absolute against the folder of the file, so that the working directory does not matter."""
    anchored: Settings = _absolute(settings, folder)
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


def _absolute(value: Any, folder: Path) -> Any:
    """The same value with every relative path in it below `folder`."""
    if isinstance(value, BaseModel):
        anchored = {name: _absolute(getattr(value, name), folder) for name in type(value).model_fields}
        # Only what changed: what the file left to its default must stay known as that.
        return value.model_copy(update={name: new for name, new in anchored.items() if new != getattr(value, name)})
    if isinstance(value, tuple):
        return tuple(_absolute(item, folder) for item in value)
    return folder / value if isinstance(value, Path) else value


def _error_line(item: Any) -> str:
    """One line of a validation error: the key, what is wrong, what is allowed."""
    # pydantic names its own branches where a value may be of two kinds.
    key = ".".join(str(part) for part in item["loc"] if "[" not in str(part))
    message: str = item["msg"].removeprefix("Value error, ")
    if item["type"] == "tuple_type" and isinstance(item["input"], dict):
        return f"{key}: write [[{key}]], with two brackets, once for each"
    if item["type"] == "tuple_type":
        message = 'allowed is a list, such as ["a", "b"]'
    if not key:  # of several tables together; the message names them
        return message
    if item["type"] in ("ip_v4_network", "ip_v6_network"):
        message = "Input should be an address or a network, such as 10.1.2.3 or 10.1.0.0/16"
    if item["type"] == "extra_forbidden":
        return f"{key}: unknown key; allowed here: {', '.join(_keys_allowed_at(item['loc']))}"
    # What is secret is not repeated: a database's URL may hold a password.
    silent = item["type"] == "missing" or isinstance(item["input"], dict) or key.rpartition(".")[2] in SECRET_KEYS
    given = "" if silent else f" (given: {item['input']!r})"
    return f"{key}: {message}{given}"


def _keys_allowed_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that may stand where an unknown one was found."""
    section: Any = Settings
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part)
        if field is None:
            break
        section = _model_of(field.annotation)
    return sorted(section.model_fields)


def _model_of(annotation: Any) -> Any:
    """The Section class inside `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        inner = _model_of(argument)
        if inner is not None:
            return inner
    return None
