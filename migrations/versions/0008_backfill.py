"""runs over an archive's past studies

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_node.index.tables.base import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "backfill_run",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("archive", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("first_date", sa.String(length=64), nullable=False),
        sa.Column("last_date", sa.String(length=64), nullable=False),
        sa.Column("sends_reports", sa.Boolean(), nullable=False),
        sa.Column("per_minute", sa.Float(), nullable=False),
        sa.Column("at_once", sa.Integer(), nullable=False),
        sa.Column("hours", sa.String(length=255), nullable=False),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("most_answers", sa.Integer(), nullable=False),
        sa.Column("started_by", sa.String(length=255), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("next_fetch_at", UtcDateTime(), nullable=False),
        sa.Column("held_until", UtcDateTime(), nullable=True),
        sa.Column("held_reason", sa.Text(), nullable=False),
        sa.Column("unreachable_times", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backfill_run")),
        sa.UniqueConstraint("name", name=op.f("uq_backfill_run_name")),
    )
    op.create_index("ix_backfill_run_state", "backfill_run", ["state"])
    op.create_table(
        "backfill_range",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("run_pk", _KEY, nullable=False),
        sa.Column("first_date", sa.String(length=64), nullable=False),
        sa.Column("last_date", sa.String(length=64), nullable=False),
        sa.Column("first_time", sa.String(length=64), nullable=False),
        sa.Column("last_time", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("dispatches", sa.Integer(), nullable=False),
        sa.Column("listed", sa.Integer(), nullable=False),
        sa.Column("others", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_pk"], ["backfill_run.id"], name=op.f("fk_backfill_range_run_pk_backfill_run"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backfill_range")),
        sa.UniqueConstraint(
            "run_pk", "first_date", "last_date", "first_time", "last_time", name=op.f("uq_backfill_range_run_pk")
        ),
    )
    op.create_index("ix_backfill_range_next", "backfill_range", ["run_pk", "state", "first_date", "first_time"])
    op.create_table(
        "backfill_item",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("run_pk", _KEY, nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_date", sa.String(length=64), nullable=False),
        sa.Column("study_time", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("dispatches", sa.Integer(), nullable=False),
        sa.Column("fetched", sa.Integer(), nullable=False),
        sa.Column("found_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["run_pk"], ["backfill_run.id"], name=op.f("fk_backfill_item_run_pk_backfill_run"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backfill_item")),
        sa.UniqueConstraint("run_pk", "study_instance_uid", name=op.f("uq_backfill_item_run_pk")),
    )
    op.create_index("ix_backfill_item_next", "backfill_item", ["run_pk", "state", "study_date", "study_time", "id"])
    op.create_index("ix_backfill_item_study", "backfill_item", ["study_instance_uid"])
    op.create_index("ix_backfill_item_ended", "backfill_item", ["run_pk", "ended_at"])


def downgrade() -> None:
    """Remove the tables with their rows."""
    op.drop_table("backfill_item")
    op.drop_table("backfill_range")
    op.drop_table("backfill_run")
