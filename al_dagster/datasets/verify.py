"""Reading an export back from disk, with other people's readers, and comparing it with the registry."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import NDArray
from PIL import Image as Pillow

from al_dagster.core.errors import UserError
from al_dagster.core.verdict import Verdict
from al_dagster.datasets.export_coco import annotation_file
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.images import image_folder
from al_dagster.datasets.manifest import damaged_files, read_manifest, unlisted_files
from al_dagster.datasets.splits import SPLITS
from al_dagster.datasets.truth import TrueImage, TrueObject, find_leaks, frozen_images
from al_dagster.registry.database import Registry

_TOLERANCE = 0.01
_YOLO_STEP = 2e-6

ReadObject = tuple[str, NDArray[np.float64], NDArray[np.float64]]
"""Class, box (4,) and corners of the outline (k, 2) as they were read, in pixels."""


def no_split_leakage(registry: Registry, dataset: pa.Table, duplicate_distance: int) -> Verdict:
    """No picture is in a split while the same or nearly the same one is in another.

    Args:
        registry: where the hashes of the images are.
        dataset: the stored table of a frozen dataset.
        duplicate_distance: most differing bits of near-duplicates.
    """
    frozen = FrozenDataset.from_table(dataset)
    return _verdict(find_leaks(registry, frozen, duplicate_distance), {"images": len(frozen.images)})


def export_equals_registry(dataset: FrozenDataset, export_path: str | None) -> Verdict:
    """A version of a dataset was exported, and its files say what was frozen."""
    if export_path is None:
        return _verdict([f"dataset {dataset.name} {dataset.version} is not exported"], {"objects": 0})
    problems = verify_export(Path(export_path), dataset)
    return _verdict(problems, {"objects": sum(len(image.objects) for image in dataset.images)})


def verify_export(folder: Path, dataset: FrozenDataset) -> list[str]:
    """Compare an export with the registry: files, classes, splits, images, boxes and outlines.

    Boxes and corners may differ by what the formats round away: a hundredth of a pixel, and for YOLO two millionths
    of the image's longer side.

    Args:
        folder: the export.
        dataset: what it must hold.

    Returns:
        A sentence for each difference; none if the export is right.
    """
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return [str(error)]
    if manifest.get("dataset_id") != dataset.dataset_id:
        return [f"{folder}: holds the dataset {manifest.get('dataset_id')}, not {dataset.dataset_id}"]
    problems = damaged_files(folder, manifest["files"]) + unlisted_files(folder, manifest["files"])
    truth = frozen_images(dataset)
    classes = list(dataset.classes)
    for format_name in manifest["formats"]:
        root = folder / format_name
        try:
            found = _check_coco(root, truth, classes) if format_name == "coco" else _check_yolo(root, truth, classes)
            problems.extend(f"{format_name}/{problem}" for problem in found)
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, yaml.YAMLError) as error:
            # Readers raise whatever a damaged file drives them to; that it cannot be read is the finding.
            problems.append(f"{format_name}: cannot be read back: {error or type(error).__name__}")
    return problems


def _verdict(problems: Sequence[str], figures: Mapping[str, Any]) -> Verdict:
    first = {"first_wrong": problems[0]} if problems else {}
    return Verdict(not problems, {**figures, "wrong": len(problems), **first})


def _check_yolo(root: Path, truth: Mapping[str, TrueImage], classes: Sequence[str]) -> Iterator[str]:
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    names = yaml.safe_load((root / "data.yaml").read_text(encoding="utf-8"))["names"]
    if list(names.values()) != list(classes) or list(names) != list(range(len(classes))):
        yield f"data.yaml: names {names}, the registry has {list(classes)}"
    # A line of a segmentation label has an outline only, and its box is that of the outline.
    parts = ("outline",) if root.name == "yolo-seg" else ("box",)
    seen: set[str] = set()
    for split in SPLITS:
        labels = {path.stem: path for path in (root / "labels" / split).glob("*.txt")}
        for path in sorted((root / image_folder(split)).iterdir()):
            where = path.relative_to(root).as_posix()
            if path.stem not in labels:
                yield f"{where}: has no label file"
                continue
            size = _size(path)
            lines = labels.pop(path.stem).read_text(encoding="utf-8").splitlines()
            boxes = yolo_annotations_to_detections(lines, resolution_wh=size, with_masks=False)
            objects = [
                (names[int(class_id)], box.astype(np.float64), _yolo_corners(line, size))
                for class_id, box, line in zip(_ids(boxes.class_id), boxes.xyxy, lines, strict=True)
            ]
            seen.add(path.stem)
            yield from _compare(where, split, size, objects, truth.get(path.stem), parts)
        yield from (f"labels/{split}/{name}.txt: has no image" for name in sorted(labels))
    yield from (f"{name}: is missing from the export" for name in sorted(truth.keys() - seen))


def _check_coco(root: Path, truth: Mapping[str, TrueImage], classes: Sequence[str]) -> Iterator[str]:
    from supervision.dataset.formats.coco import coco_annotations_to_detections, group_coco_annotations_by_image_id

    seen: set[str] = set()
    for split in SPLITS:
        document = json.loads((root / annotation_file(split)).read_text(encoding="utf-8"))
        names = {category["id"]: category["name"] for category in document["categories"]}
        if names != dict(enumerate(classes, start=1)):
            yield f"{annotation_file(split)}: categories {names}, the registry has {list(classes)}"
        by_image = group_coco_annotations_by_image_id(document["annotations"])
        for image in document["images"]:
            path = root / image_folder(split) / image["file_name"]
            where = path.relative_to(root).as_posix()
            size = _size(path)
            if (image["width"], image["height"]) != size:
                yield f"{where}: is {size[0]}×{size[1]}, its entry says {image['width']}×{image['height']}"
            annotations = by_image.pop(image["id"], [])
            read = coco_annotations_to_detections(annotations, resolution_wh=size, with_masks=False)
            objects = [
                (names[int(class_id)], box.astype(np.float64), _coco_corners(annotation, box))
                for class_id, box, annotation in zip(_ids(read.class_id), read.xyxy, annotations, strict=True)
            ]
            seen.add(path.stem)
            yield from _compare(where, split, size, objects, truth.get(path.stem), ("box", "outline"))
        yield from (f"{annotation_file(split)}: annotations of an unknown image {key}" for key in by_image)
    yield from (f"{name}: is missing from the export" for name in sorted(truth.keys() - seen))


def _compare(
    where: str,
    split: str,
    size: tuple[int, int],
    found: Sequence[ReadObject],
    image: TrueImage | None,
    parts: Sequence[str],
) -> Iterator[str]:
    if image is None:
        if found:
            yield f"{where}: has {len(found)} objects, the registry has none"
        return
    if image.split != split:
        yield f"{where}: is in {split}, the registry has it in {image.split}"
    if (image.width, image.height) != size:
        yield f"{where}: is {size[0]}×{size[1]}, the registry has {image.width}×{image.height}"
    if len(found) != len(image.objects):
        yield f"{where}: has {len(found)} objects, the registry has {len(image.objects)}"
        return
    tolerance = _TOLERANCE + _YOLO_STEP * max(size)
    for (category, box, corners), expected in zip(found, image.objects, strict=True):
        yield from (
            f"{where}: {expected.object_id} {difference}"
            for difference in _differences(category, box, corners, expected, tolerance, parts)
        )


def _differences(
    category: str,
    box: NDArray[np.float64],
    corners: NDArray[np.float64],
    expected: TrueObject,
    tolerance: float,
    parts: Sequence[str],
) -> Iterator[str]:
    if category != expected.category:
        yield f"is {category}, the registry has {expected.category}"
    if "box" in parts and not np.allclose(box, expected.box, rtol=0, atol=tolerance):
        yield f"has the box {np.round(box, 2).tolist()}, the registry has {np.round(expected.box, 2).tolist()}"
    if "outline" in parts and not _same_points(corners, expected.corners, tolerance):
        yield "has another outline than in the registry"


def _same_points(first: NDArray[np.float64], second: NDArray[np.float64], tolerance: float) -> bool:
    """Whether each point of either set lies on one of the other."""
    apart = np.abs(first[:, None, :] - second[None, :, :]).max(axis=2)
    return bool((apart.min(axis=1) <= tolerance).all() and (apart.min(axis=0) <= tolerance).all())


def _yolo_corners(line: str, size: tuple[int, int]) -> NDArray[np.float64]:
    return np.array(line.split()[1:], dtype=np.float64).reshape(-1, 2) * size


def _coco_corners(annotation: Mapping[str, Any], box: NDArray[np.float32]) -> NDArray[np.float64]:
    if annotation["segmentation"]:
        return np.concatenate([np.array(ring, dtype=np.float64).reshape(-1, 2) for ring in annotation["segmentation"]])
    return box.astype(np.float64)[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)


def _ids(class_ids: NDArray[np.integer] | None) -> NDArray[np.integer]:
    return np.empty(0, dtype=int) if class_ids is None else class_ids


def _size(path: Path) -> tuple[int, int]:
    with Pillow.open(path) as picture:
        return picture.size
