"""snapshots, training runs and the gate's decisions"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_node.index.tables.core import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _split() -> sa.Enum:
    return sa.Enum("train", "validate", "frozen", name="retrainsplit", native_enum=False, length=16)


def upgrade() -> None:
    """Four things to keep of a retraining: who is in which split, the snapshot, the run, the decision."""
    op.create_table(
        "retrain_patient",
        sa.Column("patient", sa.String(length=64), nullable=False),
        sa.Column("split", _split(), nullable=False),
        sa.Column("assigned_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("patient", name=op.f("pk_retrain_patient")),
    )
    op.create_table(
        "retrain_snapshot",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("folder", sa.String(length=255), nullable=False),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retrain_snapshot")),
        sa.UniqueConstraint("name", name=op.f("uq_retrain_snapshot_name")),
    )
    op.create_table(
        "retrain_item",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("snapshot_pk", _KEY, nullable=False),
        sa.Column("split", _split(), nullable=False),
        sa.Column("patient", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("prior_study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("prior_sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("prior_sha256", sa.String(length=64), nullable=False),
        sa.Column("label_version", sa.String(length=64), nullable=False),
        sa.Column("label_sources", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["snapshot_pk"],
            ["retrain_snapshot.id"],
            name=op.f("fk_retrain_item_snapshot_pk_retrain_snapshot"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retrain_item")),
        sa.UniqueConstraint("snapshot_pk", "sop_instance_uid", name=op.f("uq_retrain_item_snapshot_pk")),
    )
    op.create_index("ix_retrain_item_split", "retrain_item", ["split", "sop_instance_uid"])
    op.create_table(
        "retrain_run",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("snapshot_pk", _KEY, nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "prepared",
                "training",
                "evaluating",
                "decided",
                "promoted",
                "refused",
                "failed",
                name="runstate",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column(
            "promote", sa.Enum("auto", "ask", "never", name="promote", native_enum=False, length=16), nullable=False
        ),
        sa.Column("base", sa.String(length=255), nullable=False),
        sa.Column("champion_device_uid", sa.String(length=64), nullable=False),
        sa.Column("challenger", sa.String(length=255), nullable=False),
        sa.Column("challenger_device_uid", sa.String(length=64), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("started_by", sa.String(length=255), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["snapshot_pk"], ["retrain_snapshot.id"], name=op.f("fk_retrain_run_snapshot_pk_retrain_snapshot")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retrain_run")),
        sa.UniqueConstraint("name", name=op.f("uq_retrain_run_name")),
    )
    op.create_index(op.f("ix_retrain_run_snapshot_pk"), "retrain_run", ["snapshot_pk"])
    op.create_index("ix_retrain_run_state", "retrain_run", ["state"])
    op.create_table(
        "retrain_decision",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("run_pk", _KEY, nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("champion_device_uid", sa.String(length=64), nullable=False),
        sa.Column("challenger_device_uid", sa.String(length=64), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("decided_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_pk"],
            ["retrain_run.id"],
            name=op.f("fk_retrain_decision_run_pk_retrain_run"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retrain_decision")),
    )
    op.create_index(op.f("ix_retrain_decision_run_pk"), "retrain_decision", ["run_pk"])


def downgrade() -> None:
    """The rows go; the folders with manifests and models stay."""
    for table in ("retrain_decision", "retrain_run", "retrain_item", "retrain_snapshot", "retrain_patient"):
        op.drop_table(table)
