"""The node itself: address, index, completion of studies, log."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dicom_node.config.types import AETitle, ListenPort, Seconds, Section


def _language(value: str) -> str:
    """A tag such as "de" or "de-AT" whose language has a catalogue (dicom_node.report.wording.catalogue)."""
    folder = resources.files("dicom_node").joinpath("report", "locales")
    known = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    if value.lower().replace("_", "-").split("-")[0] not in known:
        raise ValueError(f"reports are written in {', '.join(known)}")
    return value


class NodeSection(Section):
    """The node itself: its DICOM address and its data."""

    ae_title: AETitle = Field(
        default="LUMEN", description="AE title of this node, 1 to 16 characters; route studies to it"
    )
    host: str = Field(default="0.0.0.0", min_length=1, description="address to listen on")
    port: ListenPort = Field(default=11112, description="DICOM port; 0: any free one")
    data_dir: Path = Field(default=Path("data"), description="folder of instances, documents and models")
    language: Annotated[str, AfterValidator(_language)] = Field(
        default="en", description="language of the reading report"
    )
    receivers: int = Field(
        default=1,
        ge=1,
        le=32,
        description="receiver processes on the one port",
        json_schema_extra={"unit": "processes"},
    )


def _database_url(value: str) -> str:
    if not value.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise ValueError('allowed are "sqlite:///FILE" and "postgresql+psycopg://USER@HOST/NAME"')
    return value


class DatabaseSection(Section):
    """The index."""

    url: Annotated[str, AfterValidator(_database_url)] = Field(
        default="sqlite:///data/index.db",
        description='"sqlite:///FILE" or "postgresql+psycopg://USER@HOST/NAME"; default: index.db in data_dir',
        examples=["sqlite:///FILE"],
    )


class CompletionSection(Section):
    """When a study is complete and can be analysed."""

    quiet_seconds: float = Field(default=60.0, ge=0, description="complete after this long without a new instance")
    deadline_seconds: Seconds = Field(
        default=5400.0, description="complete this long after its first instance at the latest"
    )
    count_seconds: float = Field(
        default=15.0,
        ge=0,
        description="this long after an instance, complete if a [[query]] peer holds as many; 0: never ask",
    )

    @model_validator(mode="after")
    def _deadline_is_not_before_the_quiet(self) -> CompletionSection:
        if self.deadline_seconds < self.quiet_seconds:
            raise ValueError(
                f"deadline_seconds ({self.deadline_seconds:g}) must be at least quiet_seconds ({self.quiet_seconds:g})"
            )
        return self


class LoggingSection(Section):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description='"debug" (may hold patient data), "info", "warning" or "error"'
    )
    format: Literal["text", "json"] = Field(default="text", description='"text" or "json"')
