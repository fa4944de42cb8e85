"""Calibration of detectors, the parts of their confidence, and objects validated by a rule.

Revision ID: 0002
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from al_dagster.registry.migrations import triggers_0001

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NOW = {"sqlite": triggers_0001.SQLITE_NOW, "postgresql": "(timezone('utc', CURRENT_TIMESTAMP))"}
OBJECT_COLUMNS: dict[str, Any] = {
    "p_label": sa.Float,
    "p_box": sa.Float,
    "calibrated_confidence": sa.Float,
    "validation_rule": sa.String,
    "machine_label": sa.JSON,
}


def upgrade() -> None:
    """Add the nullable columns of the objects, which keeps their rows and triggers, and the table of calibrations."""
    for name, kind in OBJECT_COLUMNS.items():
        op.add_column("objects", sa.Column(name, kind()))
    op.create_table(
        "calibrations",
        sa.Column("calibration_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("detection_model", sa.String(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("reviews", sa.Integer(), nullable=False),
        sa.Column("correct", sa.Integer(), nullable=False),
        sa.Column("ece_raw", sa.Float(), nullable=False),
        sa.Column("ece_calibrated", sa.Float(), nullable=False),
        sa.Column("content_hash", sa.String(), nullable=False),
        sa.Column("is_active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column(
            "fitted_at", sa.DateTime(), server_default=sa.text(NOW[op.get_context().dialect.name]), nullable=False
        ),
        sa.CheckConstraint("method IN ('constant', 'platt', 'isotonic')", name=op.f("ck_calibrations_method")),
        sa.PrimaryKeyConstraint("calibration_id", name="pk_calibrations"),
    )
    op.create_index("ix_calibrations_project_id", "calibrations", ["project_id"])


def downgrade() -> None:
    """Drop them; the validations by a rule stay, without it."""
    op.drop_table("calibrations")
    for name in OBJECT_COLUMNS:
        op.drop_column("objects", name)
