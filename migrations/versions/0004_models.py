"""which model serves, shadow results, drift figures"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_node.index.tables.core import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """which model serves, shadow results, drift figures"""
    op.create_table(
        "drift_figure",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("week", sa.Date(), nullable=False),
        sa.Column("device_uid", sa.String(length=64), nullable=False),
        sa.Column("figure", sa.String(length=255), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("low", sa.Float(), nullable=False),
        sa.Column("high", sa.Float(), nullable=False),
        sa.Column("baseline", sa.Float(), nullable=True),
        sa.Column("alarm", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drift_figure")),
        sa.UniqueConstraint("week", "device_uid", "figure", name=op.f("uq_drift_figure_week")),
    )
    op.create_table(
        "model_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "promoted",
                "rolled back",
                "shadow on",
                "shadow off",
                name="modeleventkind",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("folder", sa.String(length=255), nullable=False),
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("model_version", sa.String(length=255), nullable=False),
        sa.Column("device_uid", sa.String(length=64), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_event")),
        sa.UniqueConstraint("key", name=op.f("uq_model_event_key")),
    )
    op.create_table(
        "model_serving",
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("folder", sa.String(length=255), nullable=False),
        sa.Column("wanted", sa.String(length=255), nullable=False),
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("model_version", sa.String(length=255), nullable=False),
        sa.Column("device_uid", sa.String(length=64), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("worker", name=op.f("pk_model_serving")),
    )
    op.create_table(
        "night",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("begins_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("running", "done", "stopped", "failed", name="nightstate", native_enum=False, length=16),
            nullable=False,
        ),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("exit_status", sa.Integer(), nullable=True),
        sa.Column("paused_seconds", sa.Float(), nullable=False),
        sa.Column("pauses", sa.Integer(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_night")),
        sa.UniqueConstraint("begins_at", name=op.f("uq_night_begins_at")),
    )
    op.create_table(
        "shadow_choice",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("folder", sa.String(length=255), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("who", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow_choice")),
    )
    op.create_table(
        "pair_statistics",
        sa.Column("result_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("modality", sa.String(length=64), nullable=False),
        sa.Column("manufacturer", sa.String(length=255), nullable=False),
        sa.Column("view", sa.String(length=64), nullable=False),
        sa.Column("prior_age_days", sa.Integer(), nullable=True),
        sa.Column("pixels", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["result_pk"], ["result.id"], name=op.f("fk_pair_statistics_result_pk_result"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("result_pk", name=op.f("pk_pair_statistics")),
    )
    with op.batch_alter_table("pair_statistics", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_pair_statistics_created_at"), ["created_at"], unique=False)

    op.create_table(
        "shadow_result",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("result_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("folder", sa.String(length=255), nullable=False),
        sa.Column("model_name", sa.String(length=255), nullable=False),
        sa.Column("model_version", sa.String(length=255), nullable=False),
        sa.Column("device_uid", sa.String(length=64), nullable=False),
        sa.Column("findings", sa.JSON(), nullable=False),
        sa.Column("differences", sa.JSON(), nullable=False),
        sa.Column("disagreements", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["result_pk"], ["result.id"], name=op.f("fk_shadow_result_result_pk_result"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadow_result")),
        sa.UniqueConstraint("result_pk", "device_uid", name=op.f("uq_shadow_result_result_pk")),
    )
    with op.batch_alter_table("shadow_result", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_shadow_result_created_at"), ["created_at"], unique=False)
        batch_op.create_index("ix_shadow_result_folder", ["folder", "disagreements"], unique=False)


def downgrade() -> None:
    """Undo it."""
    with op.batch_alter_table("shadow_result", schema=None) as batch_op:
        batch_op.drop_index("ix_shadow_result_folder")
        batch_op.drop_index(batch_op.f("ix_shadow_result_created_at"))

    op.drop_table("shadow_result")
    with op.batch_alter_table("pair_statistics", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_pair_statistics_created_at"))

    op.drop_table("pair_statistics")
    op.drop_table("shadow_choice")
    op.drop_table("night")
    op.drop_table("model_serving")
    op.drop_table("model_event")
    op.drop_table("drift_figure")
