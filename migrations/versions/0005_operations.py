"""what running the node for years needs"""

from __future__ import annotations

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """what running the node for years needs"""


def downgrade() -> None:
    """Undo it."""
