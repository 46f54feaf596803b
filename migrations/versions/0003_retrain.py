"""snapshots, training runs and the gate's decisions"""

from __future__ import annotations

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """snapshots, training runs and the gate's decisions"""


def downgrade() -> None:
    """Undo it."""
