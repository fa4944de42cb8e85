"""A frozen dataset: the rows that were selected and split, and the version they were recorded as."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import pyarrow as pa

from al_dagster.core.errors import UserError
from al_dagster.core.schemas import DATASET
from al_dagster.datasets.definition import DatasetDefinition

_METADATA_KEY = b"al_dagster.dataset"
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp"}


@dataclass(frozen=True)
class DatasetObject:
    """One object of an image.

    Args:
        object_id: its id in the registry.
        category: its class.
        bbox: x, y, w, h in pixels, top-left corner and size.
        polygon: rings of x, y, x, y, … in pixels; empty if it has no mask.
        area: of the mask in px², or of the box if it has none.
    """

    object_id: str
    category: str
    bbox: tuple[float, float, float, float]
    polygon: tuple[tuple[float, ...], ...]
    area: float


@dataclass(frozen=True)
class DatasetImage:
    """One image and its objects; a background image has none.

    Args:
        source_id: the source it comes from.
        frame_idx: its place in the source; 0 for an image file.
        split: train, val or test.
        file_path: the original file.
        sha256: of the original file.
        width: in pixels, upright.
        height: in pixels, upright.
        image_format: format of the original file, such as JPEG.
        is_plain: any reader sees the same pixels in the original file, so that it may be linked as it is.
        objects: by object id.
    """

    source_id: str
    frame_idx: int
    split: str
    file_path: str
    sha256: str
    width: int
    height: int
    image_format: str
    is_plain: bool
    objects: tuple[DatasetObject, ...]

    @property
    def name(self) -> str:
        """Its name in an export, without extension."""
        return self.name_of(self.source_id, self.frame_idx)

    @staticmethod
    def name_of(source_id: str, frame_idx: int) -> str:
        """The name in an export of a frame of a source."""
        return f"{source_id}_{frame_idx:06d}" if frame_idx else source_id

    @property
    def linked_suffix(self) -> str | None:
        """The extension under which the original file may be linked; None if it must be written anew."""
        return _SUFFIXES.get(self.image_format) if self.is_plain else None


@dataclass(frozen=True)
class FrozenDataset:
    """A version of a dataset; its table can be stored anywhere and read back.

    Args:
        dataset_id: its id in the registry.
        version: such as ``1.0``.
        content_hash: over everything that makes it what it is.
        classes: class names, in the order of their YOLO ids.
        definition: what it was built from.
        table: rows of ``core.schemas.DATASET``.
    """

    dataset_id: str
    version: str
    content_hash: str
    classes: tuple[str, ...]
    definition: DatasetDefinition
    table: pa.Table

    @property
    def name(self) -> str:
        """The name of the dataset."""
        return self.definition.name

    @cached_property
    def images(self) -> tuple[DatasetImage, ...]:
        """The images with their objects, by source id."""
        return tuple(_images(self.table))

    def to_table(self) -> pa.Table:
        """The rows, with everything else in the metadata of the schema."""
        about = {
            "dataset_id": self.dataset_id,
            "version": self.version,
            "content_hash": self.content_hash,
            "classes": self.classes,
            "definition": self.definition.model_dump(mode="json"),
        }
        metadata = {**(self.table.schema.metadata or {}), _METADATA_KEY: json.dumps(about, sort_keys=True).encode()}
        return self.table.replace_schema_metadata(metadata)

    @classmethod
    def from_table(cls, table: pa.Table) -> "FrozenDataset":
        """The dataset that ``to_table`` gave.

        Raises:
            UserError: the table is not one of a dataset, for instance since none was built yet.
        """
        metadata = table.schema.metadata or {}
        if _METADATA_KEY not in metadata:
            raise UserError("this dataset has not been built yet; build it first")
        about = json.loads(metadata[_METADATA_KEY])
        return cls(
            dataset_id=about["dataset_id"],
            version=about["version"],
            content_hash=about["content_hash"],
            classes=tuple(about["classes"]),
            definition=DatasetDefinition.model_validate(about["definition"]),
            table=table.select(DATASET.names).cast(DATASET),
        )


def _images(table: pa.Table) -> Iterator[DatasetImage]:
    rows = table.to_pylist()
    for _, group in groupby(rows, key=lambda row: (row["source_id"], row["frame_idx"])):
        members = list(group)
        first = members[0]
        yield DatasetImage(
            **{
                key: first[key]
                for key in (
                    "source_id",
                    "frame_idx",
                    "split",
                    "file_path",
                    "sha256",
                    "width",
                    "height",
                    "image_format",
                    "is_plain",
                )
            },
            objects=tuple(_object(row) for row in members if row["object_id"] is not None),
        )


def _object(row: dict[str, Any]) -> DatasetObject:
    polygon = tuple(tuple(ring) for ring in row["polygon"] or ())
    area = row["area"] if polygon and row["area"] else row["bbox_w"] * row["bbox_h"]
    bbox = (row["bbox_x"], row["bbox_y"], row["bbox_w"], row["bbox_h"])
    return DatasetObject(row["object_id"], row["category"], bbox, polygon, area)
