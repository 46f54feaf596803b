"""The tables of the models' life: what was promoted, what serves where, shadow answers, drift figures, nights."""

import datetime as dt
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Date, Float, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index.tables.core import Base, Json, Key, Long, Name, Short, Uid, Utc, states


class ModelEventKind(StrEnum):
    """The kind of event in the life of the champion or the challenger."""

    PROMOTED = "promoted"
    """It became the champion."""
    ROLLED_BACK = "rolled back"
    """It was withdrawn; the champion before it serves again."""
    SHADOW_ON = "shadow on"
    """It answers live studies beside the champion, unheard."""
    SHADOW_OFF = "shadow off"
    """It no longer does."""


class ModelEvent(Base):
    """The journal of promotions, rollbacks and challengers. The pointer file owns the champion; this follows it."""

    __tablename__ = "model_event"

    id: Mapped[Key]
    key: Mapped[Name] = mapped_column(unique=True)
    """Kind, folder and time as the pointer has them: the same entry is written down once, by whoever comes first."""
    kind: Mapped[ModelEventKind] = mapped_column(states(ModelEventKind))
    folder: Mapped[Name]
    """Below the models folder."""
    model_name: Mapped[Name] = mapped_column(default="")
    model_version: Mapped[Name] = mapped_column(default="")
    device_uid: Mapped[Uid] = mapped_column(default="")
    at: Mapped[Utc]
    who: Mapped[Name] = mapped_column(default="")
    reason: Mapped[Long] = mapped_column(default="")


class ModelServing(Base):
    """The model of one worker process, which it renews regularly; a row that is not renewed is a dead worker."""

    __tablename__ = "model_serving"

    worker: Mapped[Name] = mapped_column(primary_key=True)
    """Host and process id."""
    folder: Mapped[Name] = mapped_column(default="")
    """The checkpoint that answers, below the models folder; "" for the model of the configuration."""
    wanted: Mapped[Name] = mapped_column(default="")
    """The champion that it should be; another one while it loads, and for good where it does not load."""
    model_name: Mapped[Name] = mapped_column(default="")
    model_version: Mapped[Name] = mapped_column(default="")
    device_uid: Mapped[Uid] = mapped_column(default="")
    since: Mapped[Utc]
    """When this checkpoint began to answer here."""
    seen_at: Mapped[Utc]
    error: Mapped[Long] = mapped_column(default="")
    """Why the wanted one does not answer; "" while nothing is wrong."""


class ShadowChoice(Base):
    """The challenger that a command put in the shadow; without a row the configuration decides. One row."""

    __tablename__ = "shadow_choice"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    folder: Mapped[Name] = mapped_column(default="")
    """Below the models folder; "": none."""
    since: Mapped[Utc]
    who: Mapped[Name] = mapped_column(default="")


class ShadowResult(Base):
    """The challenger's answer on a pair that the champion has answered. Never sent, never shown beside a report."""

    __tablename__ = "shadow_result"
    __table_args__ = (
        UniqueConstraint("result_pk", "device_uid"),
        Index("ix_shadow_result_folder", "folder", "disagreements"),
    )

    id: Mapped[Key]
    result_pk: Mapped[int] = mapped_column(ForeignKey("result.id", ondelete="CASCADE"))
    folder: Mapped[Name]
    model_name: Mapped[Name] = mapped_column(default="")
    model_version: Mapped[Name] = mapped_column(default="")
    device_uid: Mapped[Uid] = mapped_column(default="")
    findings: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    """As in result.json."""
    differences: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    """[{"finding", "aspect", "champion", "challenger", "champion_probability", "challenger_probability"}]"""
    disagreements: Mapped[int] = mapped_column(default=0)
    """The number of differences."""
    seconds: Mapped[float] = mapped_column(Float, default=0.0)
    error: Mapped[Long] = mapped_column(default="")
    """Why it gave no answer; "" where it did."""
    created_at: Mapped[Utc] = mapped_column(index=True)


class PairStatistics(Base):
    """Statistics of one result's images, noted when they were decoded; for the drift figures."""

    __tablename__ = "pair_statistics"

    result_pk: Mapped[int] = mapped_column(ForeignKey("result.id", ondelete="CASCADE"), primary_key=True)
    created_at: Mapped[Utc] = mapped_column(index=True)
    modality: Mapped[Short] = mapped_column(default="")
    manufacturer: Mapped[Name] = mapped_column(default="")
    view: Mapped[Short] = mapped_column(default="")
    prior_age_days: Mapped[int | None] = mapped_column(default=None)
    pixels: Mapped[Json] = mapped_column(default=dict)
    """Figures of the display image, grey 0..1: see `dicom_node.drift.pixels`."""


class DriftFigure(Base):
    """One figure of one closed week against its baseline."""

    __tablename__ = "drift_figure"
    __table_args__ = (UniqueConstraint("week", "device_uid", "figure"),)

    id: Mapped[Key]
    week: Mapped[dt.date] = mapped_column(Date)
    """Its Monday, UTC."""
    device_uid: Mapped[Uid] = mapped_column(default="")
    """The checkpoint that an output figure speaks of; "" for figures of the input."""
    figure: Mapped[Name]
    """For example "rate of pneumothorax"."""
    n: Mapped[int]
    value: Mapped[float] = mapped_column(Float)
    low: Mapped[float] = mapped_column(Float)
    high: Mapped[float] = mapped_column(Float)
    """Control limits of `value`."""
    baseline: Mapped[float | None] = mapped_column(Float, default=None)
    """The baseline's own value; None for a distance, whose baseline is nought."""
    alarm: Mapped[bool] = mapped_column(default=False)
    detail: Mapped[Long] = mapped_column(default="")
    created_at: Mapped[Utc]


class ScheduledTrainingState(StrEnum):
    """The state of a scheduled training.

    running -A-> done; running -B-> stopped; running -C-> failed.
    """

    RUNNING = "running"
    """Its process lives (or its machine died: then another one takes over in the same window)."""
    DONE = "done"
    """It ended by itself with status 0: nothing more until the next window."""
    STOPPED = "stopped"
    """The window ended; it goes on from its checkpoint in the next one."""
    FAILED = "failed"
    """It ended with another status: a notice went out, nothing more until the next window."""


class ScheduledTraining(Base):
    """One window of the schedule in which training was started."""

    __tablename__ = "night"

    id: Mapped[Key]
    begins_at: Mapped[Utc] = mapped_column(unique=True)
    """Of the window: the same window is begun once."""
    ends_at: Mapped[Utc]
    state: Mapped[ScheduledTrainingState] = mapped_column(
        states(ScheduledTrainingState), default=ScheduledTrainingState.RUNNING
    )
    host: Mapped[Name] = mapped_column(default="")
    pid: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[Utc]
    seen_at: Mapped[Utc]
    ended_at: Mapped[Utc | None] = mapped_column(default=None)
    exit_status: Mapped[int | None] = mapped_column(default=None)
    paused_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    """The time it stood still for analyses."""
    pauses: Mapped[int] = mapped_column(default=0)
    detail: Mapped[Long] = mapped_column(default="")
