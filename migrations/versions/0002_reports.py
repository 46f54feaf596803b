"""what radiologists' reports say of our results"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_node.index.tables.core import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """what radiologists' reports say of our results"""
    op.create_table(
        "received_report",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.Enum("sr", "hl7", name="reportkind", native_enum=False, length=16), nullable=False),
        sa.Column("source_key", sa.String(length=255), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "pending",
                "used",
                "contradictory",
                "unmatched",
                "superseded",
                "duplicate",
                "refused",
                name="reportstate",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("accession_numbers", sa.JSON(), nullable=False),
        sa.Column("patient_ids", sa.JSON(), nullable=False),
        sa.Column("order_key", sa.String(length=255), nullable=False),
        sa.Column("predecessors", sa.JSON(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("text_sha256", sa.String(length=64), nullable=False),
        sa.Column("author", sa.String(length=255), nullable=False),
        sa.Column("is_verified", sa.Boolean(), nullable=False),
        sa.Column("written", sa.String(length=64), nullable=False),
        sa.Column("sender", sa.String(length=255), nullable=False),
        sa.Column("received_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("looked_at", UtcDateTime(timezone=True), nullable=True),
        sa.Column("looks", sa.Integer(), nullable=False),
        sa.Column("matched_study_uid", sa.String(length=64), nullable=False),
        sa.Column("labeller", sa.String(length=255), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("contradictions", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_received_report"),
        sa.UniqueConstraint("source_key", name="uq_received_report_source_key"),
    )
    op.create_index("ix_received_report_state", "received_report", ["state", "looked_at"])
    op.create_index("ix_received_report_study", "received_report", ["matched_study_uid"])
    op.create_index("ix_received_report_order", "received_report", ["order_key"])
    with op.batch_alter_table("feedback") as batch:
        batch.add_column(sa.Column("report_pk", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("withdrawn_at", UtcDateTime(timezone=True), nullable=True))
        batch.create_index("ix_feedback_report_pk", ["report_pk"])


def downgrade() -> None:
    """Undo it."""
    with op.batch_alter_table("feedback") as batch:
        batch.drop_index("ix_feedback_report_pk")
        batch.drop_column("withdrawn_at")
        batch.drop_column("report_pk")
    op.drop_table("received_report")
