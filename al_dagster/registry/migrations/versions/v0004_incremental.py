"""What makes work incremental: the state of what datasets may hold.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; the state is named when the migration ends."""
    op.create_table(
        "content_state",
        sa.Column("state_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("state_id", name="pk_content_state"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("content_state")
