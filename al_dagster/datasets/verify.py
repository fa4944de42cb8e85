"""Reading an export back from disk and comparing it with the frozen rows that it was made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.core.verdict import Verdict
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.labels import ignored_of, labels_of
from al_dagster.datasets.manifest import (
    MANIFEST,
    damaged_files,
    describe,
    describe_images,
    read_manifest,
    unlisted_files,
)
from al_dagster.datasets.readback import Expected, ImageSizes
from al_dagster.datasets.verify_coco import check_coco
from al_dagster.datasets.verify_yolo import check_yolo


@dataclass
class Verification:
    """What reading an export back came to.

    Attributes:
        problems: a sentence for each difference; none if the export is right.
        mask_ious: of each format with masks, the overlap of each mask with the one it was made from, 0–1.
    """

    problems: list[str] = field(default_factory=list)
    mask_ious: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def export_equals_registry(
    dataset: FrozenDataset, export_path: str | None, exported_at: datetime | None = None
) -> Verdict:
    """A version of a dataset was exported, and its files say what was frozen; what people edit later is no matter.

    Args:
        dataset: the version.
        export_path: where the registry says that it was exported to, or None.
        exported_at: when it says so, UTC: files untouched since are not hashed again. None: all are.
    """
    figures = {"objects": len(dataset.object_rows)}
    if export_path is None:
        return _verdict([f"dataset {dataset.name} {dataset.version} is not exported"], figures)
    intact_at = exported_at and exported_at.replace(tzinfo=exported_at.tzinfo or UTC)
    found = verify_export(Path(export_path), dataset, intact_at=intact_at)
    ious = {
        f"{figure}_mask_iou_{name}": round(float(value), 4)
        for name, values in found.mask_ious.items()
        for figure, value in (("mean", values.mean()), ("min", values.min()))
    }
    return _verdict(found.problems, figures | ious)


def verify_export(folder: Path, dataset: FrozenDataset, *, intact_at: datetime | None = None) -> Verification:
    """Compare an export with the dataset it is of: formats, files, classes, splits, images, boxes and masks.

    Boxes and corners may differ by what the formats round away: a hundredth of a pixel, and for YOLO two millionths of
    the image's side. Masks are compared as pixels: run lengths must be those of the dataset, and an outline, drawn by
    COCO's own library, must share 0.85 (IoU) with them.

    Args:
        folder: the export.
        dataset: what it must hold.
        intact_at: as for ``manifest.damaged_files``.
    """
    found = Verification()
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        found.problems.append(str(error))
        return found
    if manifest.get("dataset_id") != dataset.dataset_id:
        found.problems.append(f"{folder}: holds the dataset {manifest.get('dataset_id')}, not {dataset.dataset_id}")
        return found
    found.problems += [
        f"{MANIFEST}: says {key} {manifest.get(key)}, the dataset has {true}"
        for key, true in describe(dataset).items()
        if manifest.get(key) != true
    ]
    damaged = damaged_files(folder, manifest["files"], intact_at=intact_at)
    found.problems += damaged + unlisted_files(folder, manifest["files"])
    expected = Expected(dataset, labels_of(dataset), {image.name: i for i, image in enumerate(dataset.images)})
    names = {name.rpartition(".")[0]: name for name in manifest.get("images", {})}
    origins = describe_images(dataset, [names.get(image.name, image.name) for image in dataset.images])
    if manifest.get("images") != origins:
        found.problems.append(f"{MANIFEST}: says of images that they come from elsewhere than in the dataset")
    # What was said of damaged files is no knowledge of them.
    sizes = ImageSizes(folder, {} if damaged else manifest["files"])
    for format_name in dataset.definition.formats:
        root = folder / format_name
        try:
            if format_name == "coco":
                problems, ious = check_coco(root, expected, ignored_of(dataset), sizes)
            else:
                problems, ious = check_yolo(root, expected, sizes, segmentation=format_name == "yolo-seg")
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, yaml.YAMLError) as error:
            # Readers raise whatever a damaged file drives them to; that it cannot be read is the finding.
            found.problems.append(f"{format_name}: cannot be read back: {error or type(error).__name__}")
            continue
        found.problems += [f"{format_name}/{problem}" for problem in problems]
        if len(ious):
            found.mask_ious[format_name] = ious
    return found


def _verdict(problems: Sequence[str], figures: Mapping[str, Any]) -> Verdict:
    first = {"first_wrong": problems[0]} if problems else {}
    return Verdict(not problems, {**figures, "wrong": len(problems), **first})
