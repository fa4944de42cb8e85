"""YOLO label files and ``data.yaml``, for detection and for segmentation."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from al_dagster.datasets.frozen import DatasetImage, FrozenDataset
from al_dagster.datasets.images import image_folder
from al_dagster.datasets.labels import box_outline, boxes_xyxy, one_outline, rings
from al_dagster.datasets.splits import SPLITS


def label_file(image: DatasetImage) -> Path:
    """Where the labels of an image stand in the export."""
    return Path("labels", image.split, f"{image.name}.txt")


def write_yolo(folder: Path, dataset: FrozenDataset, *, segmentation: bool) -> None:
    """Write ``data.yaml`` and a label file an image, empty for a background image.

    ``data.yaml`` names no ``path``: readers then take its paths from where it stands, so the export can be moved.

    Args:
        folder: the export.
        dataset: what to write.
        segmentation: a polygon an object; an object without a mask is written as the outline of its box, since
            readers refuse a file that mixes polygons and boxes.
    """
    for split in SPLITS:
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
    ids = {name: index for index, name in enumerate(dataset.classes)}
    for image in dataset.images:
        lines = _polygon_lines(image, ids) if segmentation else _box_lines(image, ids)
        (folder / label_file(image)).write_text("".join(lines), encoding="utf-8")
    (folder / "data.yaml").write_text(data_yaml(dataset.classes), encoding="utf-8")


def data_yaml(classes: Sequence[str]) -> str:
    """The text of ``data.yaml``."""
    values = {
        "train": image_folder("train").as_posix(),
        "val": image_folder("val").as_posix(),
        "test": image_folder("test").as_posix(),
        "nc": len(classes),
        "names": dict(enumerate(classes)),
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)


def _box_lines(image: DatasetImage, ids: Mapping[str, int]) -> Iterator[str]:
    for item, (x1, y1, x2, y2) in zip(image.objects, boxes_xyxy(image), strict=True):
        middle = np.array([[(x1 + x2) / 2, (y1 + y2) / 2], [x2 - x1, y2 - y1]])
        yield f"{ids[item.category]} {_normalised(middle, image)}\n"


def _polygon_lines(image: DatasetImage, ids: Mapping[str, int]) -> Iterator[str]:
    for item, box in zip(image.objects, boxes_xyxy(image), strict=True):
        outlines = rings(item, image.width, image.height)
        points = one_outline(outlines) if outlines else box_outline(box)
        yield f"{ids[item.category]} {_normalised(points, image)}\n"


def _normalised(points: NDArray[np.float64], image: DatasetImage) -> str:
    relative = points / [image.width, image.height]
    return " ".join(f"{value:.6f}" for value in relative.ravel())
