"""laboratory values and treatments of patients

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_node.index.tables.base import UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "chart_entry",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("item_key", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("issuer", sa.String(length=64), nullable=False),
        sa.Column("sender", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("comparator", sa.String(length=64), nullable=False),
        sa.Column("flag", sa.String(length=64), nullable=False),
        sa.Column("begins_at", sa.String(length=64), nullable=False),
        sa.Column("begins_zone", sa.Integer(), nullable=True),
        sa.Column("known_at", sa.String(length=64), nullable=False),
        sa.Column("known_zone", sa.Integer(), nullable=True),
        sa.Column("ends_at", sa.String(length=64), nullable=False),
        sa.Column("ends_zone", sa.Integer(), nullable=True),
        sa.Column("message_at", sa.String(length=64), nullable=False),
        sa.Column("is_withdrawn", sa.Boolean(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chart_entry")),
        sa.UniqueConstraint("item_key", name=op.f("uq_chart_entry_item_key")),
    )
    op.create_index("ix_chart_entry_patient", "chart_entry", ["patient_id", "issuer"])
    op.create_index("ix_chart_entry_received_at", "chart_entry", ["received_at"])
    op.create_table(
        "chart_unknown",
        sa.Column("id", _KEY, nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("system", sa.String(length=64), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("last_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chart_unknown")),
        sa.UniqueConstraint("kind", "code", "system", name=op.f("uq_chart_unknown_kind")),
    )


def downgrade() -> None:
    """Remove the tables with their rows."""
    op.drop_table("chart_unknown")
    op.drop_table("chart_entry")
