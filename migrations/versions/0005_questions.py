"""questions on studies"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dicom_node.index.tables.base import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """questions on studies"""
    op.create_table(
        "study_question",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("result_pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("author", sa.String(length=255), nullable=False),
        sa.Column("asked_at", UtcDateTime(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("is_refused", sa.Boolean(), nullable=False),
        sa.Column("certainty", sa.Float(), nullable=True),
        sa.Column("images", sa.JSON(), nullable=False),
        sa.Column("regions", sa.JSON(), nullable=False),
        sa.Column("device_uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["result_pk"], ["result.id"], name=op.f("fk_study_question_result_pk_result"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["study_pk"], ["study.id"], name=op.f("fk_study_question_study_pk_study"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study_question")),
    )
    op.create_index("ix_study_question_study", "study_question", ["study_pk", "id"])
    op.create_index("ix_study_question_author", "study_question", ["author", "asked_at"])
    op.create_index(op.f("ix_study_question_result_pk"), "study_question", ["result_pk"])


def downgrade() -> None:
    """Remove the table with its rows."""
    op.drop_table("study_question")
