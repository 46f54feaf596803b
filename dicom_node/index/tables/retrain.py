"""The tables of retraining: who is in which split, what a snapshot holds, how a run stands, what the gate decided."""

from enum import StrEnum

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dicom_node.index.tables.core import Base, Json, Key, Long, Name, Short, Uid, Utc, states


class RetrainSplit(StrEnum):
    """The permitted use of a patient's studies. Given once, never changed."""

    TRAIN = "train"
    """Trained on."""
    VALIDATE = "validate"
    """Of the training side, held back for calibration."""
    FROZEN = "frozen"
    """Only ever evaluated on."""


class RetrainPatient(Base):
    """One person's split, by pseudonym: who was once evaluated on is never trained on, and the other way round."""

    __tablename__ = "retrain_patient"

    patient: Mapped[Short] = mapped_column(primary_key=True)
    """Keyed hash of issuer and PatientID (dicom_node.retrain.site_export)."""
    split: Mapped[RetrainSplit] = mapped_column(states(RetrainSplit))
    assigned_at: Mapped[Utc]


class RetrainSnapshot(Base):
    """The locked data of a run; the manifest file in `folder` says the same and carries the labels."""

    __tablename__ = "retrain_snapshot"

    id: Mapped[Key]
    name: Mapped[Name] = mapped_column(unique=True)
    folder: Mapped[Name]
    """Relative to the retraining folder."""
    manifest_sha256: Mapped[Uid]
    counts: Mapped[Json] = mapped_column(default=dict)
    created_at: Mapped[Utc]

    items: Mapped[list["RetrainItem"]] = relationship(back_populates="snapshot", cascade="all, delete-orphan")


class RetrainItem(Base):
    """One labelled image, with the prior that it was compared with in service, as a snapshot holds it."""

    __tablename__ = "retrain_item"
    __table_args__ = (
        UniqueConstraint("snapshot_pk", "sop_instance_uid"),
        Index("ix_retrain_item_split", "split", "sop_instance_uid"),
    )

    id: Mapped[Key]
    snapshot_pk: Mapped[int] = mapped_column(ForeignKey("retrain_snapshot.id", ondelete="CASCADE"))
    split: Mapped[RetrainSplit] = mapped_column(states(RetrainSplit))
    patient: Mapped[Short]
    study_instance_uid: Mapped[Uid]
    sop_instance_uid: Mapped[Uid]
    sha256: Mapped[Uid]
    """Of the stored data set, as the instance's row has it."""
    prior_study_instance_uid: Mapped[Uid] = mapped_column(default="")
    prior_sop_instance_uid: Mapped[Uid] = mapped_column(default="")
    prior_sha256: Mapped[Uid] = mapped_column(default="")
    label_version: Mapped[Uid] = mapped_column(default="")
    """SHA-256 over the words that make the label: another word, another version."""
    label_sources: Mapped[list[str]] = mapped_column(JSON, default=list)
    """Of "web", "report" and "csv" those that the label comes from."""

    snapshot: Mapped["RetrainSnapshot"] = relationship(back_populates="items")


class RunState(StrEnum):
    """State of a run.

    prepared -A-> training -B-> evaluating -C-> decided -D-> promoted; decided -E-> refused; any of the first three
    -F-> failed; decided -G-> evaluating (another champion serves than the one that was compared with).
    """

    PREPARED = "prepared"
    """The snapshot is locked."""
    TRAINING = "training"
    """Steps are taken, or the trained weights are calibrated; checkpoints lie in the run's folder."""
    EVALUATING = "evaluating"
    """The challenger is complete; it and the champion answer the frozen set."""
    DECIDED = "decided"
    """The gate let the challenger pass; it waits for its promotion."""
    PROMOTED = "promoted"
    """The challenger was made the champion."""
    REFUSED = "refused"
    """The gate did not let it pass."""
    FAILED = "failed"
    """It cannot go on; the reason stands in the row."""


class Promote(StrEnum):
    """The fate of a challenger that the gate lets pass."""

    AUTO = "auto"
    """It is promoted at once."""
    ASK = "ask"
    """A person is asked on a terminal; elsewhere it waits for `dicom-node models promote`."""
    NEVER = "never"
    """It is kept beside the champion."""


class RetrainRun(Base):
    """One retraining. At most one is unfinished; the next `dicom-node retrain` goes on with it."""

    __tablename__ = "retrain_run"
    __table_args__ = (Index("ix_retrain_run_state", "state"),)

    id: Mapped[Key]
    name: Mapped[Name] = mapped_column(unique=True)
    """Also the name of its folder below the retraining folder."""
    snapshot_pk: Mapped[int] = mapped_column(ForeignKey("retrain_snapshot.id"), index=True)
    state: Mapped[RunState] = mapped_column(states(RunState), default=RunState.PREPARED)
    promote: Mapped[Promote] = mapped_column(states(Promote), default=Promote.ASK)
    base: Mapped[Name]
    """Folder of the checkpoint that it starts from."""
    champion_device_uid: Mapped[Uid]
    """Who served when the run was last compared with it."""
    challenger: Mapped[Name] = mapped_column(default="")
    """Folder name below the models directory, once it is there."""
    challenger_device_uid: Mapped[Uid] = mapped_column(default="")
    attempts: Mapped[int] = mapped_column(default=0)
    """The number of times it was begun or resumed."""
    reason: Mapped[Long] = mapped_column(default="")
    started_by: Mapped[Name] = mapped_column(default="")
    started_at: Mapped[Utc]
    updated_at: Mapped[Utc]
    ended_at: Mapped[Utc | None] = mapped_column(default=None)

    snapshot: Mapped["RetrainSnapshot"] = relationship()


class RetrainDecision(Base):
    """The gate's decision on a run, with every figure it looked at. A later decision replaces none: it adds."""

    __tablename__ = "retrain_decision"

    id: Mapped[Key]
    run_pk: Mapped[int] = mapped_column(ForeignKey("retrain_run.id", ondelete="CASCADE"), index=True)
    passed: Mapped[bool]
    champion_device_uid: Mapped[Uid]
    challenger_device_uid: Mapped[Uid]
    reasons: Mapped[list[str]] = mapped_column(JSON)
    figures: Mapped[Json]
    decided_at: Mapped[Utc]


ENDED = (RunState.PROMOTED, RunState.REFUSED, RunState.FAILED)
"""States that nothing follows."""
