"""COCO instances: one JSON file a split."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from al_dagster.core import rle
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.labels import Labels, one_outline
from al_dagster.datasets.splits import SPLITS
from al_dagster.vision.polygons import edge_rings
from al_dagster.vision.protocols import Mask

_DECIMALS = 3

Segmentation = dict[str, Any] | list[list[float]]
"""Run lengths with the size of the image, or rings of x, y, x, y, … in pixels; no ring without a mask."""


def annotation_file(split: str) -> Path:
    """Where the annotations of a split stand in the export."""
    return Path("annotations", f"instances_{split}.json")


def write_coco(
    folder: Path, dataset: FrozenDataset, labels: Labels, ignored: Labels, files: Sequence[str]
) -> dict[str, str]:
    """Write the annotations of every split.

    A mask is run lengths, or where the definition asks for polygons, rings that give it back exactly; where no rings
    do, run lengths as well. An object without a mask has an empty ``segmentation``. Each annotation carries its
    ``object_id``, each image its ``source_id`` and the path of its ``original``. An ignored region is a crowd
    (``iscrowd``). Ids of images and annotations are unique over all splits.

    Args:
        folder: the export; made if it is not there.
        dataset: what to write.
        labels: its labels.
        ignored: its ignored regions.
        files: file name of each image.

    Returns:
        The SHA-256 of each file, by its path in the export.
    """
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    images: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    annotations: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    splits = [image.split for image in dataset.images]
    for image_id, (image, name) in enumerate(zip(dataset.images, files, strict=True), start=1):
        images[image.split].append(
            {
                "file_name": name,
                "frame_idx": image.frame_idx,
                "height": image.height,
                "id": image_id,
                "original": image.file_path,
                "source_id": image.source_id,
                "width": image.width,
            }
        )
    polygons = dataset.definition.coco_masks == "polygon"
    for annotation in _annotations(labels, _segmentations(labels, polygons), first_id=1, is_crowd=0):
        annotations[splits[annotation["image_id"] - 1]].append(annotation)
    for annotation in _annotations(ignored, _regions(ignored), first_id=len(labels.boxes) + 1, is_crowd=1):
        annotations[splits[annotation["image_id"] - 1]].append(annotation)
    hashes = {}
    for split in SPLITS:
        document = {
            "annotations": annotations[split],
            "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(dataset.classes, 1)],
            "images": images[split],
            "info": {"description": dataset.name, "version": dataset.version},
            "licenses": [],
        }
        # The keys stand in their order already: sorting them takes as long as writing.
        content = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        (folder / annotation_file(split)).write_bytes(content)
        hashes[annotation_file(split).as_posix()] = hashlib.sha256(content).hexdigest()
    return hashes


def _annotations(
    labels: Labels, segmentations: Iterator[Segmentation], *, first_id: int, is_crowd: Literal[0, 1]
) -> Iterator[dict[str, Any]]:
    columns = zip(
        labels.areas.round(_DECIMALS).tolist(),
        labels.xywh.round(_DECIMALS).tolist(),
        (labels.class_ids + 1).tolist(),
        (np.repeat(np.arange(len(labels.starts) - 1), np.diff(labels.starts)) + 1).tolist(),
        labels.object_ids,
        segmentations,
        strict=True,
    )
    for id_, (area, bbox, category_id, image_id, object_id, segmentation) in enumerate(columns, first_id):
        yield {
            "area": area,
            "bbox": bbox,
            "category_id": category_id,
            "id": id_,
            "image_id": image_id,
            "iscrowd": is_crowd,
            "object_id": object_id,
            "segmentation": segmentation,
        }


def _segmentations(labels: Labels, polygons: bool) -> Iterator[Segmentation]:
    # Only masks of before run lengths were kept have nothing but their rings.
    rings = labels.rings() if any(counts is None for counts in labels.rles) else [[]] * len(labels.rles)
    for counts, (width, height), outlines in zip(labels.rles, labels.sizes.astype(int).tolist(), rings, strict=True):
        if counts is None:
            yield [ring.round(_DECIMALS).ravel().tolist() for ring in outlines]
        else:
            exact = _exact_polygons(counts, width, height) if polygons else None
            yield exact or {"counts": counts, "size": [height, width]}


def _exact_polygons(counts: str, width: int, height: int) -> list[list[float]] | None:
    """A ring for each part of a mask, its holes joined to it; None if COCO's tools make another mask of them."""
    pixels, x, y = rle.decode_part(counts, width, height)
    parts: list[list[NDArray[np.int64]]] = []
    for ring in edge_rings(Mask(pixels, x, y, 1.0)):
        if parts and _is_hole(ring):
            parts[-1].append(ring)
        else:
            parts.append([ring])
    if not parts:
        return None
    polygons = [one_outline([ring.astype(np.float64) for ring in rings]).ravel().tolist() for rings in parts]
    drawn = coco_masks.merge(coco_masks.frPyObjects(polygons, height, width))
    return polygons if drawn["counts"] == counts.encode() else None


def _is_hole(ring: NDArray[np.int64]) -> bool:
    x, y = ring.T
    return bool((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0)


def _regions(ignored: Labels) -> Iterator[Segmentation]:
    """Run lengths of the ignored objects' masks, or of the pixels of their boxes."""
    low, high = np.floor(ignored.boxes[:, :2]).astype(int), np.ceil(ignored.boxes[:, 2:]).astype(int)
    for counts, (width, height), (x, y), (right, bottom) in zip(
        ignored.rles, ignored.sizes.astype(int).tolist(), low.tolist(), high.tolist(), strict=True
    ):
        box = counts or rle.encode(np.ones((bottom - y, right - x), dtype=np.bool_), x, y, width, height)
        yield {"counts": box, "size": [height, width]}
