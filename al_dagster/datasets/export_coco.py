"""COCO instances: one JSON file a split."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from al_dagster.datasets.frozen import DatasetImage, DatasetObject, FrozenDataset
from al_dagster.datasets.labels import boxes_xyxy, rings
from al_dagster.datasets.splits import SPLITS

_DECIMALS = 3


def annotation_file(split: str) -> Path:
    """Where the annotations of a split stand in the export."""
    return Path("annotations", f"instances_{split}.json")


def write_coco(folder: Path, dataset: FrozenDataset, files: Mapping[str, str]) -> None:
    """Write the annotations of every split.

    Masks are polygons, never run lengths; an object without a mask has an empty ``segmentation``. Each annotation
    carries its ``object_id``. Ids of images and annotations are unique over all splits.

    Args:
        folder: the export.
        dataset: what to write.
        files: file name of each image, by its name in the dataset.
    """
    ids = {name: index for index, name in enumerate(dataset.classes, start=1)}
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    documents: dict[str, dict[str, Any]] = {
        split: {
            "info": {"description": dataset.name, "version": dataset.version},
            "licenses": [],
            "categories": [{"id": ids[name], "name": name, "supercategory": ""} for name in dataset.classes],
            "images": [],
            "annotations": [],
        }
        for split in SPLITS
    }
    annotation_id = 0
    for image_id, image in enumerate(dataset.images, start=1):
        document = documents[image.split]
        document["images"].append(
            {"id": image_id, "file_name": files[image.name], "width": image.width, "height": image.height}
        )
        for item, (x1, y1, x2, y2) in zip(image.objects, boxes_xyxy(image).tolist(), strict=True):
            annotation_id += 1
            document["annotations"].append(
                {
                    "id": annotation_id,
                    "image_id": image_id,
                    "category_id": ids[item.category],
                    "bbox": [round(value, _DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)],
                    "area": round(item.area, _DECIMALS),
                    "segmentation": _segmentation(item, image),
                    "iscrowd": 0,
                    "object_id": item.object_id,
                }
            )
    for split, document in documents.items():
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        (folder / annotation_file(split)).write_text(text + "\n", encoding="utf-8")


def _segmentation(item: DatasetObject, image: DatasetImage) -> list[list[float]]:
    return [
        [round(value, _DECIMALS) for value in points.ravel().tolist()]
        for points in rings(item, image.width, image.height)
    ]
