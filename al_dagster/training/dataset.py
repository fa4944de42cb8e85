"""A dataset as training sees it: a folder in YOLO format, and what it was frozen from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from al_dagster.core.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ExportedDataset:
    """A frozen dataset, exported in YOLO format.

    Args:
        path: folder with ``data.yaml``, ``images/<split>`` and ``labels/<split>``.
        dataset_id: id of the frozen dataset.
        name: its name.
        version: its version, such as ``1.0``.
        content_hash: hash of what was selected and how it was split.
        splits: images in each split.
        content_names: for the file name of an image, a name that its content alone decides; of none, its own.
    """

    path: Path
    dataset_id: str
    name: str
    version: str
    content_hash: str
    splits: Mapping[str, int]
    content_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their ids.

        Raises:
            UserError: ``data.yaml`` is missing or is not one of YOLO.
        """
        names = self._data().get("names")
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names)]
        if not isinstance(names, list) or not names:
            raise UserError(f"{self._yaml}: 'names' must list the class names; export the dataset again")
        return tuple(str(name) for name in names)

    def images(self, split: str) -> list[Path]:
        """The images of a split, sorted by name; none if it has none of its own, though those of train stand in."""
        data = self._data()
        folder = data.get(split)
        if not folder or (split != "train" and folder == data.get("train")):
            return []
        path = self.path / str(folder)
        return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else []

    def label_file(self, image: Path) -> Path:
        """Where the labels of an image of this export stand; a file that is missing means no objects."""
        relative = image.relative_to(self.path)
        return self.path / "labels" / Path(*relative.parts[1:]).with_suffix(".txt")

    @property
    def _yaml(self) -> Path:
        return self.path / "data.yaml"

    def _data(self) -> dict[str, Any]:
        try:
            data = yaml.safe_load(self._yaml.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{self._yaml} does not exist: export the dataset {self.name} again") from None
        except yaml.YAMLError:
            raise UserError(f"{self._yaml} is not YAML: export the dataset {self.name} again") from None
        return data if isinstance(data, dict) else {}


def read_labels(path: Path, width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The boxes of a YOLO label file.

    Args:
        path: lines of ``class x_center y_center width height`` or ``class x1 y1 x2 y2 …`` (a polygon), relative to the
            image's size; a file that is missing is an image without objects.
        width: the image's width in pixels.
        height: its height in pixels.

    Returns:
        Boxes (n, 4), x1, y1, x2, y2 in pixels, and class ids (n,).

    Raises:
        UserError: a line is not a YOLO label.
    """
    boxes: list[list[float]] = []
    class_ids: list[int] = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            class_id, *values = line.split()
            box = _box(np.array(values, dtype=np.float64))
            class_ids.append(int(class_id))
        except ValueError:
            raise UserError(f"{path}, line {number}: not a YOLO label: {line!r}; export the dataset again") from None
        boxes.append((box * [width, height, width, height]).tolist())
    return np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(class_ids, dtype=np.int64)


def _box(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if values.size == 4:
        center, size = values[:2], values[2:]
        return np.concatenate([center - size / 2, center + size / 2])
    points = values.reshape(-1, 2)
    if len(points) < 3:
        raise ValueError("neither a box nor a polygon")
    return np.concatenate([points.min(axis=0), points.max(axis=0)])
