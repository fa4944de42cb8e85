"""Reading COCO annotations back from disk and comparing them with the frozen dataset."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from al_dagster.datasets.export_coco import annotation_file
from al_dagster.datasets.labels import Labels
from al_dagster.datasets.readback import (
    TOLERANCE,
    Expected,
    ImageSizes,
    ReadLabels,
    check_images,
    check_labels,
    image_of,
    low_overlaps,
)
from al_dagster.datasets.splits import SPLITS

Annotation = tuple[int, Mapping[str, Any]]
"""The place of its image among those of the dataset, and the annotation."""


def check_coco(
    root: Path, expected: Expected, ignored: Labels, sizes: ImageSizes
) -> tuple[list[str], NDArray[np.float64]]:
    """Compare a folder of COCO annotations with the dataset.

    Args:
        root: the folder of the format.
        expected: what it must hold.
        ignored: the regions that must be crowds.
        sizes: of the image files of the export.

    Returns:
        A sentence for each difference, and of each mask the overlap (IoU) of what COCO's own library reads.

    Raises:
        OSError, ValueError, …: what a damaged file drives its reader to.
    """
    places, problems = check_images(root, expected, sizes)
    labels: list[Annotation] = []
    crowds: list[Annotation] = []
    for split in SPLITS:
        document = orjson.loads((root / annotation_file(split)).read_bytes())
        names = {category["id"]: category["name"] for category in document["categories"]}
        if names != dict(enumerate(expected.dataset.classes, start=1)):
            problems.append(f"{annotation_file(split)}: categories {names}, the dataset has {expected.dataset.classes}")
        index = _image_index(document["images"], expected)
        problems += _image_problems(document["images"], index, split, places, expected)
        unknown = {row["image_id"] for row in document["annotations"]} - index.keys()
        problems += [f"{annotation_file(split)}: annotations of an unknown image {key}" for key in sorted(unknown)]
        for row in document["annotations"]:
            if row["image_id"] not in unknown:
                (crowds if row["iscrowd"] else labels).append((index[row["image_id"]], row))
    found, ious = _check_annotations(labels, expected.labels, expected, places)
    problems += found
    problems += _check_annotations(crowds, ignored, expected, places)[0]
    return problems, ious


def _image_index(entries: Sequence[Mapping[str, Any]], expected: Expected) -> dict[Any, int]:
    """The place of each image among those of the dataset, by its id."""
    names = {entry["id"]: entry["file_name"].rpartition(".")[0] for entry in entries}
    return {key: expected.index[name] for key, name in names.items() if name in expected.index}


def _image_problems(
    entries: Sequence[Mapping[str, Any]],
    index: Mapping[Any, int],
    split: str,
    places: Sequence[str],
    expected: Expected,
) -> list[str]:
    problems = []
    listed = set()
    for entry in entries:
        if entry["id"] not in index:
            problems.append(f"{annotation_file(split)}: {entry['file_name']} is no image of the dataset")
            continue
        place = index[entry["id"]]
        listed.add(place)
        image = expected.dataset.images[place]
        said = [entry[key] for key in ("file_name", "width", "height", "source_id", "frame_idx", "original")]
        true = [Path(places[place]).name, image.width, image.height, image.source_id, image.frame_idx, image.file_path]
        if said != true:
            problems.append(f"{annotation_file(split)}: says of {entry['file_name']} {said}, the dataset has {true}")
    problems += [
        f"{annotation_file(split)}: does not list {image.name}"
        for place, image in enumerate(expected.dataset.images)
        if image.split == split and place not in listed
    ]
    return problems


def _check_annotations(
    rows: list[Annotation], labels: Labels, expected: Expected, places: Sequence[str]
) -> tuple[list[str], NDArray[np.float64]]:
    rows = sorted(rows, key=lambda row: row[0])
    annotations = [row for _, row in rows]
    boxes = np.array([row["bbox"] for row in annotations], dtype=np.float64).reshape(-1, 4)
    found = ReadLabels(
        np.array([image for image, _ in rows], dtype=np.int64),
        np.array([row["category_id"] for row in annotations], dtype=np.int64) - 1,
        np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
    )
    of_found, of_labels, problems = check_labels(found, labels, expected.dataset.classes, places, has_boxes=True)
    pairs = [(annotations[i], k) for i, k in zip(of_found.tolist(), of_labels.tolist(), strict=True)]
    images = image_of(labels)
    areas = np.array([row["area"] for row, _ in pairs], dtype=np.float64)
    wrong_area = ~(np.abs(areas - labels.areas[of_labels]) <= TOLERANCE)
    for (row, k), is_wrong in zip(pairs, wrong_area.tolist(), strict=True):
        if row["object_id"] != labels.object_ids[k]:
            problems.append(f"{places[images[k]]}: has {row['object_id']} in the place of {labels.object_ids[k]}")
        elif is_wrong:
            problems.append(
                f"{places[images[k]]}: {labels.object_ids[k]} has the area {row['area']}, "
                f"the dataset has {labels.areas[k]:.3f}"
            )
    masked = [(row, k) for row, k in pairs if labels.rles[k] is not None]
    ious = np.array([_overlap(row["segmentation"], labels.rles[k] or "", *labels.sizes[k]) for row, k in masked])
    problems += low_overlaps(ious, 1.0, [k for _, k in masked], labels, places)
    return problems + _check_rings(pairs, labels, places), ious


def _overlap(segmentation: Any, counts: str, width: float, height: float) -> float:
    """What a segmentation shares with a mask (IoU), by COCO's own library; equal run lengths need no comparison."""
    size = [int(height), int(width)]
    if segmentation == {"counts": counts, "size": size}:
        return 1.0
    if not segmentation:
        return 0.0
    if isinstance(segmentation, list):
        read = coco_masks.merge(coco_masks.frPyObjects(segmentation, *size))
    else:
        read = {"size": segmentation["size"], "counts": segmentation["counts"].encode()}
    if read["size"] != size:
        return 0.0
    return float(coco_masks.iou([read], [{"size": size, "counts": counts.encode()}], [0])[0, 0])


def _check_rings(pairs: Sequence[tuple[Mapping[str, Any], int]], labels: Labels, places: Sequence[str]) -> list[str]:
    """A sentence for each label without run lengths whose rings are not those of the dataset."""
    bare = [(row, k) for row, k in pairs if labels.rles[k] is None and not row["iscrowd"]]
    rings = labels.rings() if bare else []
    images = image_of(labels)
    return [
        f"{places[images[k]]}: {labels.object_ids[k]} has another outline than in the dataset"
        for row, k in bare
        if not _same_rings(row["segmentation"], rings[k])
    ]


def _same_rings(segmentation: Any, rings: Sequence[NDArray[np.float64]]) -> bool:
    if not isinstance(segmentation, list) or [len(ring) for ring in segmentation] != [ring.size for ring in rings]:
        return False
    return all(
        bool((np.abs(np.array(one) - other.ravel()) <= TOLERANCE).all())
        for one, other in zip(segmentation, rings, strict=True)
    )
