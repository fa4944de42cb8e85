"""What the registry says of a frozen dataset: the measure that exports and splits are checked against."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.geometry import clip_xyxy, xywh_to_xyxy
from al_dagster.datasets.frozen import DatasetImage, FrozenDataset
from al_dagster.datasets.selection import attach
from al_dagster.datasets.splits import near_duplicate_leaks
from al_dagster.registry.database import Registry

_OBJECTS = """
SELECT d.object_id, d.split, c.name AS category, o.bbox_x, o.bbox_y, o.bbox_w, o.bbox_h,
       CAST(o.polygon AS VARCHAR) AS polygon, o.source_id, coalesce(f.frame_idx, 0) AS frame_idx, s.width, s.height
FROM registry.dataset_objects AS d
JOIN registry.objects AS o ON o.object_id = d.object_id
JOIN registry.categories AS c ON c.category_id = o.category_id
JOIN registry.sources AS s ON s.source_id = o.source_id
LEFT JOIN registry.frames AS f ON f.frame_id = o.frame_id
WHERE d.dataset_id = $dataset_id
ORDER BY o.source_id, frame_idx, d.object_id
"""

_HASHES = """
SELECT source_id, sha256, perceptual_hash, group_key, file_path
FROM registry.sources
WHERE list_contains($source_ids, source_id)
"""


@dataclass(frozen=True)
class TrueObject:
    """An object as the registry has it.

    Args:
        object_id: its id.
        category: its class.
        box: (4,), x1, y1, x2, y2 in pixels, cut to the image.
        corners: (k, 2), x, y of the outline of its mask, cut to the image; of its box if it has no mask.
    """

    object_id: str
    category: str
    box: NDArray[np.float64]
    corners: NDArray[np.float64]


@dataclass(frozen=True)
class TrueImage:
    """An image with objects as the registry has it.

    Args:
        split: where the dataset was frozen to have it.
        width: in pixels.
        height: in pixels.
        objects: by id.
    """

    split: str
    width: int
    height: int
    objects: list[TrueObject] = field(default_factory=list)


def true_images(registry: Registry, dataset_id: str) -> dict[str, TrueImage]:
    """The images of a dataset that have objects, by their name in an export."""
    images: dict[str, TrueImage] = {}
    with attach(registry.url) as connection:
        rows = connection.execute(_OBJECTS, {"dataset_id": dataset_id}).to_arrow_table().to_pylist()
    for row in rows:
        name = DatasetImage.name_of(row["source_id"], row["frame_idx"])
        image = images.setdefault(name, TrueImage(row["split"], row["width"], row["height"]))
        image.objects.append(_true_object(row))
    return images


def frozen_images(dataset: FrozenDataset) -> dict[str, TrueImage]:
    """The images of a dataset that have objects, as they were frozen, by their name in an export."""
    rows: list[dict[str, Any]] = [
        {
            "object_id": item.object_id,
            "category": item.category,
            **dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), item.bbox, strict=True)),
            "polygon": json.dumps(item.polygon),
            "width": image.width,
            "height": image.height,
            "name": image.name,
            "split": image.split,
        }
        for image in dataset.images
        for item in image.objects
    ]
    images: dict[str, TrueImage] = {}
    for row in rows:
        image = images.setdefault(row["name"], TrueImage(row["split"], row["width"], row["height"]))
        image.objects.append(_true_object(row))
    return images


def find_leaks(registry: Registry, dataset: FrozenDataset, duplicate_distance: int) -> list[str]:
    """A sentence for each way in which one split of a dataset leaks into another; none is what every build owes.

    Leaks are images of one group in two splits, the same bytes in two splits, and near-duplicates in two splits. The
    hashes come from the registry and the pairs are compared anew.

    Args:
        registry: where the hashes are.
        dataset: what to check.
        duplicate_distance: most differing bits of near-duplicates.
    """
    splits = {image.source_id: image.split for image in dataset.images}
    problems = [
        f"{image.file_path}: is in {image.split} and in {splits[image.source_id]}"
        for image in dataset.images
        if image.split != splits[image.source_id]
    ]
    with attach(registry.url) as connection:
        table = connection.execute(_HASHES, {"source_ids": list(splits)}).to_arrow_table()
    sources = {row["source_id"]: row for row in table.to_pylist()}
    ordered = [sources[source_id] for source_id in splits]
    return problems + _group_leaks(ordered, splits) + _picture_leaks(ordered, splits, duplicate_distance)


def _group_leaks(sources: Sequence[dict[str, Any]], splits: dict[str, str]) -> list[str]:
    members: dict[str, set[str]] = {}
    for source in sources:
        members.setdefault(source["group_key"], set()).add(splits[source["source_id"]])
    return [f"group {key}: is in {' and '.join(sorted(found))}" for key, found in members.items() if len(found) > 1]


def _picture_leaks(sources: Sequence[dict[str, Any]], splits: dict[str, str], duplicate_distance: int) -> list[str]:
    of_split = [splits[source["source_id"]] for source in sources]
    leaks = near_duplicate_leaks(
        of_split,
        [source["perceptual_hash"] for source in sources],
        [source["sha256"] for source in sources],
        duplicate_distance,
    )
    return [
        f"{sources[leak.second]['file_path']}: is in {of_split[leak.second]} and differs in {leak.distance} bits from "
        f"{sources[leak.first]['file_path']} in {of_split[leak.first]}"
        for leak in leaks
    ]


def _true_object(row: dict[str, Any]) -> TrueObject:
    width, height = row["width"], row["height"]
    box = clip_xyxy(xywh_to_xyxy(np.array([[row[f"bbox_{key}"] for key in "xywh"]])), width, height)[0]
    outlines = [np.array(ring).reshape(-1, 2) for ring in json.loads(row["polygon"] or "null") or []]
    outlines = [points for points in outlines if len(points) > 2]
    corners = np.concatenate(outlines) if outlines else box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
    return TrueObject(row["object_id"], row["category"], box, np.clip(corners, 0, [width, height]))
