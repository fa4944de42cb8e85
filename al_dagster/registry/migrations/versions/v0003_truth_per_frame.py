"""Truth per frame: what was labelled, groups by project, masks as run lengths, objects whose vector waits to be made.

Revision ID: 0003
"""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

COLUMNS: dict[str, dict[str, Any]] = {
    "objects": {"mask_rle": sa.String},
    "sources": {"captured_at": sa.DateTime, "thumbnail": sa.LargeBinary},
    "frames": {"width": sa.Integer, "height": sa.Integer},
}
OLD_CONFLICT, NEW_CONFLICT = ("object_id", "detection_id"), ("object_id", "detection_id", "category")


def upgrade() -> None:
    """Add columns and tables, and fill them with what the rows show; what they do not show stays empty."""
    for table, columns in COLUMNS.items():
        for name, kind in columns.items():
            op.add_column(table, sa.Column(name, kind()))
    op.add_column("objects", sa.Column("is_stale", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "frame_labels",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("frame_id", sa.String(), nullable=False),
        sa.Column("batch_key", sa.String()),
        sa.Column("labelled_at", sa.DateTime()),
        sa.Column("is_unsure", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("classes", sa.JSON()),
        sa.Column("error", sa.String()),
        sa.Column("background_by", sa.String()),
        sa.Column("background_at", sa.DateTime()),
        sa.ForeignKeyConstraint(["frame_id"], ["frames.frame_id"], name="fk_frame_labels_frame_id_frames"),
        sa.PrimaryKeyConstraint("project_id", "frame_id", name="pk_frame_labels"),
    )
    op.create_index("ix_frame_labels_frame_id", "frame_labels", ["frame_id"])
    op.create_table(
        "source_groups",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("group_key", sa.String(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["source_id"], ["sources.source_id"], name="fk_source_groups_source_id_sources"),
        sa.PrimaryKeyConstraint("project_id", "source_id", name="pk_source_groups"),
    )
    op.create_index("ix_source_groups_source_id", "source_groups", ["source_id"])
    op.create_table(
        "source_ties",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("neighbour_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["source_id"], ["sources.source_id"], name="fk_source_ties_source_id_sources"),
        sa.ForeignKeyConstraint(["neighbour_id"], ["sources.source_id"], name="fk_source_ties_neighbour_id_sources"),
        sa.PrimaryKeyConstraint("project_id", "source_id", "neighbour_id", name="pk_source_ties"),
    )
    _replace_unique_of_conflicts(OLD_CONFLICT, NEW_CONFLICT)
    # Only frames with objects are known to have been labelled: of the others, some could not be read. Nor is one that
    # has superseded objects only, which is what a file that could not be read when it was labelled again left behind.
    op.execute(
        """INSERT INTO frame_labels (project_id, frame_id, batch_key, labelled_at)
        SELECT project_id, frame_id, max(batch_key), max(created_at) FROM objects
        WHERE project_id IS NOT NULL AND frame_id IS NOT NULL GROUP BY project_id, frame_id
        HAVING min(state) <> 'superseded' OR max(state) <> 'superseded'"""
    )
    op.execute(
        """INSERT INTO source_groups (project_id, source_id, group_key, rule)
        SELECT DISTINCT f.project_id, f.source_id, s.group_key, 'content'
        FROM batch_files AS f JOIN sources AS s ON s.source_id = f.source_id"""
    )
    if not op.get_context().as_sql:
        _note_classes()
        _validate_corrections()


def downgrade() -> None:
    """Drop them."""
    _replace_unique_of_conflicts(NEW_CONFLICT, OLD_CONFLICT)
    op.drop_table("source_ties")
    op.drop_table("source_groups")
    op.drop_table("frame_labels")
    op.drop_column("objects", "is_stale")
    for table, columns in COLUMNS.items():
        for name in columns:
            op.drop_column(table, name)


def _replace_unique_of_conflicts(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    with op.batch_alter_table("conflicts", table_kwargs={"sqlite_autoincrement": True}) as table:
        table.drop_constraint(f"uq_conflicts_{'_'.join(old)}", type_="unique")
        table.create_unique_constraint(f"uq_conflicts_{'_'.join(new)}", list(new))


def _note_classes() -> None:
    """The classes that frames were searched for are those of the last run of their batch."""
    connection = op.get_bind()
    batches = connection.execute(sa.text("SELECT batch_key, parameters FROM batches WHERE parameters IS NOT NULL"))
    for batch_key, parameters in batches.all():
        values = json.loads(parameters) if isinstance(parameters, str) else parameters
        classes = values.get("project", {}).get("classes")
        if classes:
            connection.execute(
                sa.text("UPDATE frame_labels SET classes = :classes WHERE batch_key = :key"),
                {"classes": json.dumps(classes), "key": batch_key},
            )


def _validate_corrections() -> None:
    """A corrected object is a validated one, and one whose box was moved has a vector of something else."""
    names = ("object_id", "category_id", "bbox_x", "bbox_y", "bbox_w", "bbox_h", "machine_label", "edited_by")
    connection = op.get_bind()
    rows = connection.execute(
        sa.text(
            f"SELECT {', '.join(names)} FROM objects "
            "WHERE state = 'active' AND edited_at IS NOT NULL AND machine_label IS NOT NULL"
        )
    )
    for row in rows.mappings().all():
        said = row["machine_label"]
        said = json.loads(said) if isinstance(said, str) else said
        moved = list(said["bbox"]) != [row[f"bbox_{side}"] for side in "xywh"]
        if moved or said["category_id"] != row["category_id"]:
            connection.execute(
                sa.text(
                    "UPDATE objects SET is_validated = :yes, validated_by = edited_by, validated_at = edited_at, "
                    "validation_rule = NULL, calibrated_confidence = NULL, is_stale = :moved WHERE object_id = :key"
                ),
                {"yes": True, "moved": moved, "key": row["object_id"]},
            )
