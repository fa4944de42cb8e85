"""The tables of the registry. Ids are text, boxes are top-left corner and size in pixels, timestamps are UTC."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, UniqueConstraint, false, text, true
from sqlalchemy.orm import Mapped, mapped_column

from al_dagster.registry.base import Base, utc_now
from al_dagster.registry.calibration_table import Calibration as Calibration


class Project(Base):
    """A project and its whole configuration."""

    __tablename__ = "projects"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str | None]
    classes: Mapped[list[Any] | None]
    default_model: Mapped[str | None]
    config: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = utc_now()
    updated_at: Mapped[datetime] = utc_now()


class Source(Base):
    """An original file; the same bytes are the same source, whatever their path.

    ``file_path`` is where it was seen first; ``batch_files`` has every path of every project. ``group_key`` is its
    cluster of near-duplicates over all projects.
    """

    __tablename__ = "sources"
    __table_args__ = (CheckConstraint("source_type IN ('image', 'video', 'text')", name="source_type"),)

    source_id: Mapped[str] = mapped_column(primary_key=True)
    source_type: Mapped[str]
    file_path: Mapped[str | None]
    file_name: Mapped[str | None]
    width: Mapped[int | None]
    height: Mapped[int | None]
    frame_count: Mapped[int | None]
    fps: Mapped[float | None]
    sha256: Mapped[str | None]
    perceptual_hash: Mapped[str | None]
    group_key: Mapped[str] = mapped_column(index=True)
    captured_at: Mapped[datetime | None]
    thumbnail: Mapped[bytes | None] = mapped_column(LargeBinary)
    extra: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    created_at: Mapped[datetime] = utc_now()


class PerceptualHash(Base):
    """A perceptual hash and the cluster of the source that had it first; ids are in the order of registration."""

    __tablename__ = "perceptual_hashes"

    hash_id: Mapped[int] = mapped_column(primary_key=True)
    perceptual_hash: Mapped[str]
    group_key: Mapped[str]


class HashBand(Base):
    """A part of a perceptual hash, by which near-duplicates are found (``registry.grouping``)."""

    __tablename__ = "hash_bands"
    __table_args__ = {"sqlite_with_rowid": False}  # noqa: RUF012

    band: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    hash_id: Mapped[int] = mapped_column(ForeignKey("perceptual_hashes.hash_id"), primary_key=True)


class SourceGroup(Base):
    """The group that a source belongs to in a project: all of a group are in one split of a dataset.

    ``rule`` says why: ``content`` (itself and its near-duplicates), ``recording``, or the project's own ``folder``,
    ``pattern``, ``time`` or ``column``.
    """

    __tablename__ = "source_groups"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.source_id"), primary_key=True, index=True)
    group_key: Mapped[str]
    rule: Mapped[str]


class SourceTie(Base):
    """Two sources of a project that belong together and are in different groups, since both had theirs already.

    They must not be in two splits of a dataset.
    """

    __tablename__ = "source_ties"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.source_id"), primary_key=True)
    neighbour_id: Mapped[str] = mapped_column(ForeignKey("sources.source_id"), primary_key=True)


class Frame(Base):
    """A frame of a source; an image is its own frame 0. Without a size of its own it has that of its source."""

    __tablename__ = "frames"
    __table_args__ = (UniqueConstraint("source_id", "frame_idx"),)

    frame_id: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.source_id"))
    frame_idx: Mapped[int]
    timestamp_ms: Mapped[int | None] = mapped_column(BigInteger)
    width: Mapped[int | None]
    height: Mapped[int | None]


class FrameLabel(Base):
    """What is known of a frame in a project. Only a frame that was labelled and has no object shows nothing.

    ``labelled_at`` is when all stages succeeded for it, ``classes`` what it was searched for then, ``is_unsure`` that
    something was proposed and "Unknown"; ``error`` is why the last attempt failed, if it did, and what stood before
    stays. A person may have marked it as background.
    """

    __tablename__ = "frame_labels"

    project_id: Mapped[str] = mapped_column(primary_key=True)
    frame_id: Mapped[str] = mapped_column(ForeignKey("frames.frame_id"), primary_key=True, index=True)
    batch_key: Mapped[str | None]
    labelled_at: Mapped[datetime | None]
    is_unsure: Mapped[bool] = mapped_column(server_default=false())
    classes: Mapped[list[Any] | None]
    error: Mapped[str | None]
    background_by: Mapped[str | None]
    background_at: Mapped[datetime | None]


class Category(Base):
    """A class of objects, shared by all projects."""

    __tablename__ = "categories"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012

    category_id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    supercategory: Mapped[str | None]
    synonyms: Mapped[list[Any] | None]
    color: Mapped[str] = mapped_column(server_default="#808080")
    description: Mapped[str | None]
    created_at: Mapped[datetime] = utc_now()


class Object(Base):
    """One detected instance. ``detection_id`` is the newest machine detection that its machine fields come from.

    ``machine_label`` is what the machine had said of an object that a person edited (``registry.reviews``);
    ``calibrated_confidence`` is NULL where the detector is not calibrated for the project, and where a person corrected
    the label. ``mask_rle`` is the mask in COCO's compressed run lengths over the whole frame. ``is_stale`` says that a
    person moved the box and that mask and vector are not made anew yet.
    """

    __tablename__ = "objects"
    __table_args__ = (
        CheckConstraint("confidence BETWEEN 0 AND 1", name="confidence"),
        CheckConstraint("quality_score BETWEEN 0 AND 1", name="quality_score"),
        CheckConstraint("state IN ('active', 'superseded', 'deleted')", name="state"),
        Index(None, "created_at"),
        Index("ix_objects_project_id_state_created_at", "project_id", "state", "created_at", "object_id"),
    )

    object_id: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.source_id"), index=True)
    category_id: Mapped[int | None] = mapped_column(ForeignKey("categories.category_id"), index=True)
    frame_id: Mapped[str | None] = mapped_column(ForeignKey("frames.frame_id"), index=True)
    project_id: Mapped[str | None]
    bbox_x: Mapped[float]
    bbox_y: Mapped[float]
    bbox_w: Mapped[float]
    bbox_h: Mapped[float]
    mask_path: Mapped[str | None]
    polygon: Mapped[list[Any] | None]
    mask_rle: Mapped[str | None]
    area: Mapped[float | None]
    mask_score: Mapped[float | None]
    confidence: Mapped[float | None] = mapped_column(index=True)
    p_label: Mapped[float | None]
    p_box: Mapped[float | None]
    calibrated_confidence: Mapped[float | None]
    detection_id: Mapped[str | None]
    detection_model: Mapped[str | None]
    segmentation_model: Mapped[str | None]
    classification_model: Mapped[str | None]
    classification_confidence: Mapped[float | None]
    embedding_version: Mapped[str | None]
    is_stale: Mapped[bool] = mapped_column(server_default=false())
    is_validated: Mapped[bool] = mapped_column(server_default=false(), index=True)
    validated_by: Mapped[str | None]
    validated_at: Mapped[datetime | None]
    validation_rule: Mapped[str | None]
    edited_by: Mapped[str | None]
    edited_at: Mapped[datetime | None]
    machine_label: Mapped[dict[str, Any] | None]
    quality_score: Mapped[float | None]
    is_occluded: Mapped[bool] = mapped_column(server_default=false())
    is_truncated: Mapped[bool] = mapped_column(server_default=false())
    is_difficult: Mapped[bool] = mapped_column(server_default=false())
    state: Mapped[str] = mapped_column(server_default="active")
    batch_key: Mapped[str | None]
    run_id: Mapped[str | None]
    created_at: Mapped[datetime] = utc_now()
    updated_at: Mapped[datetime] = utc_now()


class Conflict(Base):
    """A new machine box that contradicts an object that a person has touched, kept for review."""

    __tablename__ = "conflicts"
    __table_args__ = (UniqueConstraint("object_id", "detection_id", "category"), {"sqlite_autoincrement": True})

    conflict_id: Mapped[int] = mapped_column(primary_key=True)
    object_id: Mapped[str] = mapped_column(ForeignKey("objects.object_id"))
    detection_id: Mapped[str]
    batch_key: Mapped[str | None]
    category: Mapped[str]
    bbox_x: Mapped[float]
    bbox_y: Mapped[float]
    bbox_w: Mapped[float]
    bbox_h: Mapped[float]
    confidence: Mapped[float | None]
    iou: Mapped[float]
    created_at: Mapped[datetime] = utc_now()
    resolved_at: Mapped[datetime | None]


class Track(Base):
    """The same object through the frames of a video; the database keeps ``object_count``."""

    __tablename__ = "tracks"

    track_id: Mapped[str] = mapped_column(primary_key=True)
    source_id: Mapped[str] = mapped_column(ForeignKey("sources.source_id"))
    category_id: Mapped[int | None] = mapped_column(ForeignKey("categories.category_id"))
    start_frame_idx: Mapped[int | None]
    end_frame_idx: Mapped[int | None]
    object_count: Mapped[int] = mapped_column(server_default=text("0"))
    avg_confidence: Mapped[float | None]
    extra: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    created_at: Mapped[datetime] = utc_now()


class TrackObject(Base):
    """An object's place in a track."""

    __tablename__ = "track_objects"

    track_id: Mapped[str] = mapped_column(ForeignKey("tracks.track_id", ondelete="CASCADE"), primary_key=True)
    object_id: Mapped[str] = mapped_column(ForeignKey("objects.object_id", ondelete="CASCADE"), primary_key=True)
    sequence_idx: Mapped[int]


class Dataset(Base):
    """A frozen selection of objects and its split."""

    __tablename__ = "datasets"
    __table_args__ = (CheckConstraint("format IN ('yolo', 'coco')", name="format"),)

    dataset_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    format: Mapped[str] = mapped_column(server_default="yolo")
    version: Mapped[str] = mapped_column(server_default="1.0")
    split_config: Mapped[dict[str, Any]] = mapped_column(server_default='{"train": 0.8, "val": 0.1, "test": 0.1}')
    filter_config: Mapped[dict[str, Any] | None]
    category_mapping: Mapped[dict[str, Any] | None]
    object_count: Mapped[int] = mapped_column(server_default=text("0"))
    objects_by_split: Mapped[dict[str, Any] | None]
    content_hash: Mapped[str | None]
    run_id: Mapped[str | None]
    export_path: Mapped[str | None]
    created_at: Mapped[datetime] = utc_now()
    built_at: Mapped[datetime] = utc_now()
    exported_at: Mapped[datetime | None]


class DatasetObject(Base):
    """An object's split in a dataset: train, val or test."""

    __tablename__ = "dataset_objects"
    __table_args__ = (CheckConstraint("split IN ('train', 'val', 'test')", name="split"),)

    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.dataset_id", ondelete="CASCADE"), primary_key=True)
    object_id: Mapped[str] = mapped_column(ForeignKey("objects.object_id"), primary_key=True, index=True)
    split: Mapped[str]


class DatasetDefinition(Base):
    """What a named dataset selects and how it is split."""

    __tablename__ = "dataset_definitions"

    name: Mapped[str] = mapped_column(primary_key=True)
    definition: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = utc_now()
    updated_at: Mapped[datetime] = utc_now()


class ContentState(Base):
    """One row that names the state of all that datasets are made of; ``registry.database`` renames it with each change.

    The name is random, so that a registry that was restored or made anew never has the name of another state.
    """

    __tablename__ = "content_state"

    state_id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]


class EmbeddingVersion(Base):
    """A model and preprocessing whose vectors may be compared with each other."""

    __tablename__ = "embedding_versions"

    version_id: Mapped[str] = mapped_column(primary_key=True)
    model_name: Mapped[str]
    model_type: Mapped[str]
    dimension: Mapped[int]
    description: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default=true())


class EmbeddingOutbox(Base):
    """A change that the vector store still has to follow, or has followed; the newest row of an object holds."""

    __tablename__ = "embedding_outbox"
    __table_args__ = (
        CheckConstraint("operation IN ('upsert', 'delete')", name="operation"),
        CheckConstraint("status IN ('pending', 'synced', 'failed')", name="status"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    object_id: Mapped[str] = mapped_column(ForeignKey("objects.object_id"), index=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("embedding_versions.version_id"))
    operation: Mapped[str]
    embedding: Mapped[bytes | None] = mapped_column(LargeBinary)
    status: Mapped[str] = mapped_column(server_default="pending", index=True)
    retry_count: Mapped[int] = mapped_column(server_default=text("0"))
    error_message: Mapped[str | None]
    created_at: Mapped[datetime] = utc_now()
    synced_at: Mapped[datetime | None]


class Batch(Base):
    """A batch of files that are labelled together; its key is the Dagster partition.

    ``parameters`` and ``run_id`` are of the last run that registered its objects, ``labelled_at`` of the last that
    labelled all its frames and came to its end.
    """

    __tablename__ = "batches"
    __table_args__ = (CheckConstraint("origin IN ('inbox', 'command')", name="origin"),)

    batch_key: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(index=True)
    origin: Mapped[str] = mapped_column(server_default="command")
    parameters: Mapped[dict[str, Any] | None]
    run_id: Mapped[str | None]
    created_at: Mapped[datetime] = utc_now()
    labelled_at: Mapped[datetime | None]


class BatchFile(Base):
    """A file version claimed by a batch; each is claimed once in a project."""

    __tablename__ = "batch_files"
    __table_args__ = (
        UniqueConstraint("project_id", "file_path", "size_bytes", "mtime_ns"),
        CheckConstraint("status IN ('ready', 'quarantined', 'duplicate')", name="status"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    batch_key: Mapped[str] = mapped_column(ForeignKey("batches.batch_key"), index=True)
    project_id: Mapped[str]
    file_path: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    source_id: Mapped[str | None] = mapped_column(ForeignKey("sources.source_id"), index=True)
    status: Mapped[str | None]
    reason: Mapped[str | None]
