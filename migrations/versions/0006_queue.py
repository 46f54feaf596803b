"""The queue on many machines: an index in the order of a claim, notifications of ready jobs, what each lane does.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NOTIFY = """
CREATE FUNCTION notify_ready_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- Equal notifications of one transaction are sent once, at its commit.
  PERFORM pg_notify('dicom_node_jobs', NEW.kind);
  RETURN NULL;
END $$
"""
TRIGGER = """
CREATE TRIGGER job_is_ready AFTER INSERT OR UPDATE OF state, run_at ON job
FOR EACH ROW WHEN (NEW.state = 'ready') EXECUTE FUNCTION notify_ready_job()
"""


def upgrade() -> None:
    op.create_index("ix_job_next", "job", ["kind", "state", "priority", "run_at", "id"])
    op.drop_index("ix_job_claim", table_name="job")
    op.create_table(
        "worker_lane",
        sa.Column("worker", sa.String(length=255), nullable=False),
        sa.Column("lane", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("job_key", sa.String(length=255), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("worker", "lane", name="pk_worker_lane"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(NOTIFY)
        op.execute(TRIGGER)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER job_is_ready ON job")
        op.execute("DROP FUNCTION notify_ready_job()")
    op.drop_table("worker_lane")
    op.create_index("ix_job_claim", "job", ["state", "run_at", "priority", "id"])
    op.drop_index("ix_job_next", table_name="job")
