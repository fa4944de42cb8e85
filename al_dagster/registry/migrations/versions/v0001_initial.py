"""The first tables.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

from al_dagster.registry.migrations import triggers_0001 as triggers

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NOW = {"sqlite": triggers.SQLITE_NOW, "postgresql": "(timezone('utc', CURRENT_TIMESTAMP))"}


def upgrade() -> None:
    """Create every table and the triggers that keep ``updated_at`` and ``object_count``."""
    now = sa.text(NOW[op.get_context().dialect.name])
    op.create_table(
        "batches",
        sa.Column("batch_key", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), server_default="command", nullable=False),
        sa.Column("parameters", sa.JSON()),
        sa.Column("run_id", sa.String()),
        sa.Column("created_at", sa.DateTime(), server_default=now, nullable=False),
        sa.Column("labelled_at", sa.DateTime()),
        sa.CheckConstraint("origin IN ('inbox', 'command')", name=op.f("ck_batches_origin")),
        sa.PrimaryKeyConstraint("batch_key", name="pk_batches"),
    )
    op.create_index("ix_batches_project_id", "batches", ["project_id"])
    op.create_table(
        "categories",
        sa.Column("category_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("supercategory", sa.String()),
        sa.Column("synonyms", sa.JSON()),
        sa.Column("color", sa.String(), server_default="#808080", nullable=False),
        sa.Column("description", sa.String()),
        sa.Column("created_at", sa.DateTime(), server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("category_id", name="pk_categories"),
        sa.UniqueConstraint("name", name="uq_categories_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dataset_definitions",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(), server_default=now, nullable=False),
        sa.Column("updated_at", sa.DateTime(), server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_dataset_definitions"),
    )
    op.create_table(
        "datasets",
        sa.Column("dataset_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("format", sa.String(), server_default="yolo", nullable=False),
        sa.Column("version", sa.String(), server_default="1.0", nullable=False),
        sa.Column("split_config", sa.JSON(), server_default='{"train": 0.8, "val": 0.1, "test": 0.1}', nullable=False),
        sa.Column("filter_config", sa.JSON()),
        sa.Column("category_mapping", sa.JSON()),
        sa.Column("object_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("content_hash", sa.String()),
        sa.Column("run_id", sa.String()),
        sa.Column("export_path", sa.String()),
        sa.Column("created_at", sa.DateTime(), server_default=now, nullable=False),
        sa.Column("built_at", sa.DateTime(), server_default=now, nullable=False),
        sa.Column("exported_at", sa.DateTime()),
        sa.CheckConstraint("format IN ('yolo', 'coco')", name=op.f("ck_datasets_format")),
        sa.PrimaryKeyConstraint("dataset_id", name="pk_datasets"),
    )
    op.create_table(
        "embedding_versions",
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("model_name", sa.String(), nullable=False),
        sa.Column("model_type", sa.String(), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("description", sa.String()),
        sa.Column("is_active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.PrimaryKeyConstraint("version_id", name="pk_embedding_versions"),
    )
    op.create_table(
        "projects",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String()),
        sa.Column("classes", sa.JSON()),
        sa.Column("default_model", sa.String()),
        sa.Column("config", sa.JSON()),
        sa.Column("created_at", sa.DateTime(), server_default=now, nullable=False),
        sa.Column("updated_at", sa.DateTime(), server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("project_id", name="pk_projects"),
    )
    op.create_table(
        "sources",
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("source_type", sa.String(), nullable=False),
        sa.Column("file_path", sa.String()),
        sa.Column("file_name", sa.String()),
        sa.Column("width", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("frame_count", sa.Integer()),
        sa.Column("fps", sa.Float()),
        sa.Column("sha256", sa.String()),
        sa.Column("perceptual_hash", sa.String()),
        sa.Column("group_key", sa.String(), nullable=False),
        sa.Column("metadata", sa.JSON()),
        sa.Column("created_at", sa.DateTime(), server_default=now, nullable=False),
        sa.CheckConstraint("source_type IN ('image', 'video', 'text')", name=op.f("ck_sources_source_type")),
        sa.PrimaryKeyConstraint("source_id", name="pk_sources"),
    )
    op.create_index("ix_sources_group_key", "sources", ["group_key"])
    op.create_table(
        "batch_files",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("batch_key", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("file_path", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("source_id", sa.String()),
        sa.Column("status", sa.String()),
        sa.Column("reason", sa.String()),
        sa.CheckConstraint("status IN ('ready', 'quarantined', 'duplicate')", name=op.f("ck_batch_files_status")),
        sa.ForeignKeyConstraint(["batch_key"], ["batches.batch_key"], name="fk_batch_files_batch_key_batches"),
        sa.ForeignKeyConstraint(["source_id"], ["sources.source_id"], name="fk_batch_files_source_id_sources"),
        sa.PrimaryKeyConstraint("id", name="pk_batch_files"),
        sa.UniqueConstraint(
            "project_id",
            "file_path",
            "size_bytes",
            "mtime_ns",
            name="uq_batch_files_project_id_file_path_size_bytes_mtime_ns",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_batch_files_batch_key", "batch_files", ["batch_key"])
    op.create_index("ix_batch_files_source_id", "batch_files", ["source_id"])
    op.create_table(
        "frames",
        sa.Column("frame_id", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("frame_idx", sa.Integer(), nullable=False),
        sa.Column("timestamp_ms", sa.BigInteger()),
        sa.ForeignKeyConstraint(["source_id"], ["sources.source_id"], name="fk_frames_source_id_sources"),
        sa.PrimaryKeyConstraint("frame_id", name="pk_frames"),
        sa.UniqueConstraint("source_id", "frame_idx", name="uq_frames_source_id_frame_idx"),
    )
    op.create_table(
        "tracks",
        sa.Column("track_id", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("category_id", sa.Integer()),
        sa.Column("start_frame_idx", sa.Integer()),
        sa.Column("end_frame_idx", sa.Integer()),
        sa.Column("object_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("avg_confidence", sa.Float()),
        sa.Column("metadata", sa.JSON()),
        sa.Column("created_at", sa.DateTime(), server_default=now, nullable=False),
        sa.ForeignKeyConstraint(["category_id"], ["categories.category_id"], name="fk_tracks_category_id_categories"),
        sa.ForeignKeyConstraint(["source_id"], ["sources.source_id"], name="fk_tracks_source_id_sources"),
        sa.PrimaryKeyConstraint("track_id", name="pk_tracks"),
    )
    op.create_table(
        "objects",
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("source_id", sa.String(), nullable=False),
        sa.Column("category_id", sa.Integer()),
        sa.Column("frame_id", sa.String()),
        sa.Column("project_id", sa.String()),
        sa.Column("bbox_x", sa.Float(), nullable=False),
        sa.Column("bbox_y", sa.Float(), nullable=False),
        sa.Column("bbox_w", sa.Float(), nullable=False),
        sa.Column("bbox_h", sa.Float(), nullable=False),
        sa.Column("mask_path", sa.String()),
        sa.Column("polygon", sa.JSON()),
        sa.Column("area", sa.Float()),
        sa.Column("mask_score", sa.Float()),
        sa.Column("confidence", sa.Float()),
        sa.Column("detection_id", sa.String()),
        sa.Column("detection_model", sa.String()),
        sa.Column("segmentation_model", sa.String()),
        sa.Column("classification_model", sa.String()),
        sa.Column("classification_confidence", sa.Float()),
        sa.Column("embedding_version", sa.String()),
        sa.Column("is_validated", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("validated_by", sa.String()),
        sa.Column("validated_at", sa.DateTime()),
        sa.Column("edited_by", sa.String()),
        sa.Column("edited_at", sa.DateTime()),
        sa.Column("quality_score", sa.Float()),
        sa.Column("is_occluded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("is_truncated", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("is_difficult", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("state", sa.String(), server_default="active", nullable=False),
        sa.Column("batch_key", sa.String()),
        sa.Column("run_id", sa.String()),
        sa.Column("created_at", sa.DateTime(), server_default=now, nullable=False),
        sa.Column("updated_at", sa.DateTime(), server_default=now, nullable=False),
        sa.CheckConstraint("state IN ('active', 'superseded', 'deleted')", name=op.f("ck_objects_state")),
        sa.CheckConstraint("confidence BETWEEN 0 AND 1", name=op.f("ck_objects_confidence")),
        sa.CheckConstraint("quality_score BETWEEN 0 AND 1", name=op.f("ck_objects_quality_score")),
        sa.ForeignKeyConstraint(["category_id"], ["categories.category_id"], name="fk_objects_category_id_categories"),
        sa.ForeignKeyConstraint(["frame_id"], ["frames.frame_id"], name="fk_objects_frame_id_frames"),
        sa.ForeignKeyConstraint(["source_id"], ["sources.source_id"], name="fk_objects_source_id_sources"),
        sa.PrimaryKeyConstraint("object_id", name="pk_objects"),
    )
    op.create_index("ix_objects_category_id", "objects", ["category_id"])
    op.create_index("ix_objects_confidence", "objects", ["confidence"])
    op.create_index("ix_objects_created_at", "objects", ["created_at"])
    op.create_index("ix_objects_frame_id", "objects", ["frame_id"])
    op.create_index("ix_objects_is_validated", "objects", ["is_validated"])
    op.create_index("ix_objects_project_id", "objects", ["project_id"])
    op.create_index("ix_objects_source_id", "objects", ["source_id"])
    op.create_table(
        "conflicts",
        sa.Column("conflict_id", sa.Integer(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("detection_id", sa.String(), nullable=False),
        sa.Column("batch_key", sa.String()),
        sa.Column("category", sa.String(), nullable=False),
        sa.Column("bbox_x", sa.Float(), nullable=False),
        sa.Column("bbox_y", sa.Float(), nullable=False),
        sa.Column("bbox_w", sa.Float(), nullable=False),
        sa.Column("bbox_h", sa.Float(), nullable=False),
        sa.Column("confidence", sa.Float()),
        sa.Column("iou", sa.Float(), nullable=False),
        sa.Column("created_at", sa.DateTime(), server_default=now, nullable=False),
        sa.Column("resolved_at", sa.DateTime()),
        sa.ForeignKeyConstraint(["object_id"], ["objects.object_id"], name="fk_conflicts_object_id_objects"),
        sa.PrimaryKeyConstraint("conflict_id", name="pk_conflicts"),
        sa.UniqueConstraint("object_id", "detection_id", name="uq_conflicts_object_id_detection_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dataset_objects",
        sa.Column("dataset_id", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.CheckConstraint("split IN ('train', 'val', 'test')", name=op.f("ck_dataset_objects_split")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.dataset_id"], name="fk_dataset_objects_dataset_id_datasets", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["object_id"], ["objects.object_id"], name="fk_dataset_objects_object_id_objects"),
        sa.PrimaryKeyConstraint("dataset_id", "object_id", name="pk_dataset_objects"),
    )
    op.create_index("ix_dataset_objects_object_id", "dataset_objects", ["object_id"])
    op.create_table(
        "embedding_outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("operation", sa.String(), nullable=False),
        sa.Column("embedding", sa.LargeBinary()),
        sa.Column("status", sa.String(), server_default="pending", nullable=False),
        sa.Column("retry_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error_message", sa.String()),
        sa.Column("created_at", sa.DateTime(), server_default=now, nullable=False),
        sa.Column("synced_at", sa.DateTime()),
        sa.CheckConstraint("operation IN ('upsert', 'delete')", name=op.f("ck_embedding_outbox_operation")),
        sa.CheckConstraint("status IN ('pending', 'synced', 'failed')", name=op.f("ck_embedding_outbox_status")),
        sa.ForeignKeyConstraint(["object_id"], ["objects.object_id"], name="fk_embedding_outbox_object_id_objects"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["embedding_versions.version_id"], name="fk_embedding_outbox_version_id_embedding_versions"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_embedding_outbox"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_embedding_outbox_object_id", "embedding_outbox", ["object_id"])
    op.create_index("ix_embedding_outbox_status", "embedding_outbox", ["status"])
    op.create_table(
        "track_objects",
        sa.Column("track_id", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("sequence_idx", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"], ["objects.object_id"], name="fk_track_objects_object_id_objects", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["track_id"], ["tracks.track_id"], name="fk_track_objects_track_id_tracks", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("track_id", "object_id", name="pk_track_objects"),
    )
    for statement in triggers.create(op.get_context().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    """Drop everything."""
    for table in (
        "track_objects",
        "embedding_outbox",
        "dataset_objects",
        "conflicts",
        "objects",
        "tracks",
        "frames",
        "batch_files",
        "sources",
        "projects",
        "embedding_versions",
        "datasets",
        "dataset_definitions",
        "categories",
        "batches",
    ):
        op.drop_table(table)
    for statement in triggers.drop(op.get_context().dialect.name):
        op.execute(statement)
