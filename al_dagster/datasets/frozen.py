"""A frozen dataset: the rows that were selected and split, and the version they were recorded as."""

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.core.schemas import DATASET
from al_dagster.datasets.definition import DatasetDefinition
from al_dagster.datasets.names import export_names

_METADATA_KEY = b"al_dagster.dataset"
_IMAGE_COLUMNS = (
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
SMALLEST_SIDE = 1e-3
"""Of a box in pixels: COCO files have three decimals."""
SMALLEST_SHARE = 1e-6
"""Of a box's side in the image's: YOLO files have six decimals."""
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp"}


@dataclass(frozen=True)
class DatasetObject:
    """One object of an image.

    Args:
        object_id: its id in the registry.
        category: its class.
        bbox: x, y, w, h in pixels, top-left corner and size.
        rle: its mask in COCO's compressed run lengths; None if it has none.
    """

    object_id: str
    category: str
    bbox: tuple[float, float, float, float]
    rle: str | None


@dataclass(frozen=True)
class DatasetImage:
    """One image and its objects; a background image has none.

    Args:
        name: its name in an export, without extension.
        source_id: the source it comes from.
        frame_idx: its place in the source; 0 for an image file of one page.
        split: train, val or test.
        file_path: the original file.
        sha256: of the original file.
        width: in pixels, upright.
        height: in pixels, upright.
        image_format: format of the original file, such as JPEG.
        is_plain: any reader sees the same pixels in the original file, so that its bytes may be exported as they are.
        objects: by object id.
        ignored: objects whose region is to teach nothing, by object id.
    """

    name: str
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
    ignored: tuple[DatasetObject, ...]

    @property
    def plain_suffix(self) -> str | None:
        """The extension under which the original's bytes may be exported; None if the image must be written anew."""
        return _SUFFIXES.get(self.image_format) if self.is_plain and not self.ignored and not self.frame_idx else None


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
        """The images with their objects, by source id and frame."""
        first = self.table.take(self.image_rows)
        columns = [first[name].to_pylist() for name in _IMAGE_COLUMNS]
        paths, sources, frames = (first[name].to_pylist() for name in ("file_path", "source_id", "frame_idx"))
        names = export_names(paths, sources, frames)
        members = [self._members(rows) for rows in (self.object_rows, self.ignored_rows)]
        return tuple(map(DatasetImage, names, *columns, *members))

    @cached_property
    def image_rows(self) -> NDArray[np.int64]:
        """(images,): the first row of each image in the table."""
        source = self.table["source_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        frame = self.table["frame_idx"].to_numpy()
        return np.flatnonzero((np.diff(source, prepend=-1) != 0) | (np.diff(frame, prepend=-1) != 0))

    @cached_property
    def object_rows(self) -> NDArray[np.int64]:
        """(objects,): the rows of the objects that are labelled, which have an area in every format."""
        return np.flatnonzero(self._has_area & ~self._is_ignored)

    @cached_property
    def ignored_rows(self) -> NDArray[np.int64]:
        """(ignored,): the rows of the objects whose region is to teach nothing."""
        return np.flatnonzero(self._has_area & self._is_ignored)

    @cached_property
    def boxes(self) -> NDArray[np.float64]:
        """(rows, 4): the box of each row cut to its image, x1, y1, x2, y2 in pixels; not a number without object."""
        x, y, w, h = (self.table[f"bbox_{key}"].to_numpy() for key in "xywh")
        boxes = np.stack([x, y, x + w, y + h], axis=1).astype(np.float64)
        return np.clip(boxes, 0, np.tile(self.sizes, 2))

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """(rows, 2): width and height in pixels of the image of each row."""
        return np.stack([self.table["width"].to_numpy(), self.table["height"].to_numpy()], axis=1).astype(np.float64)

    def starts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each image begins among some of the rows, and where the last one ends.

        Args:
            rows: numbers of rows, ascending.

        Returns:
            (images + 1,): those of the i-th image are ``rows[starts[i]:starts[i + 1]]``.
        """
        return np.append(np.searchsorted(rows, self.image_rows), len(rows))

    @property
    def _has_area(self) -> NDArray[np.bool_]:
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        return np.asarray(((sides >= SMALLEST_SIDE) & (sides >= SMALLEST_SHARE * self.sizes)).all(axis=1))

    @property
    def _is_ignored(self) -> NDArray[np.bool_]:
        return np.asarray(self.table["is_ignored"].fill_null(False).to_numpy())

    def _members(self, rows: NDArray[np.int64]) -> list[tuple[DatasetObject, ...]]:
        """The objects of each image among some of the rows."""
        table = self.table.take(rows)
        boxes = zip(*(table[f"bbox_{key}"].to_pylist() for key in "xywh"), strict=True)
        columns = [table[name].to_pylist() for name in ("object_id", "category", "rle")]
        objects = list(map(DatasetObject, columns[0], columns[1], boxes, columns[2]))
        starts = self.starts(rows).tolist()
        return [tuple(objects[start:end]) for start, end in pairwise(starts)]

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
