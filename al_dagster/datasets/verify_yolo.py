"""Reading YOLO labels back from disk and comparing them with the frozen dataset."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from al_dagster.datasets.export_yolo import data_yaml
from al_dagster.datasets.labels import Labels
from al_dagster.datasets.readback import (
    Expected,
    ImageSizes,
    ReadLabels,
    check_images,
    check_labels,
    file_names,
    image_of,
    low_overlaps,
    tolerances,
)

MIN_MASK_IOU = 0.85
"""What an outline of few corners, filled, must share with its mask."""

_BOX_VALUES = 5
_OUTLINE_VALUES = 7


def check_yolo(
    root: Path, expected: Expected, sizes: ImageSizes, *, segmentation: bool
) -> tuple[list[str], NDArray[np.float64]]:
    """Compare a folder of YOLO labels with the dataset.

    Args:
        root: the folder of the format.
        expected: what it must hold.
        sizes: of the image files of the export.
        segmentation: the labels are outlines.

    Returns:
        A sentence for each difference, and of each mask the overlap (IoU) of its outline, filled.

    Raises:
        OSError, ValueError, …: what a damaged file drives its reader to.
    """
    classes, labels = expected.dataset.classes, expected.labels
    problems = _check_data_yaml(
        (root / "data.yaml").read_text(encoding="utf-8"),
        data_yaml(classes, {image.split for image in expected.dataset.images}),
    )
    places, image_problems = check_images(root, expected, sizes)
    lines, label_problems = _lines(root, places)
    problems += image_problems + label_problems
    images = np.repeat(np.arange(len(lines)), [len(members) for members in lines])
    tokens = [line.split() for members in lines for line in members]
    counts = np.array([len(members) for members in tokens], dtype=np.int64)
    values = np.array(list(map(float, chain.from_iterable(tokens))))
    image_sizes = np.array([(image.width, image.height) for image in expected.dataset.images]).reshape(-1, 2)[images]
    if segmentation:
        more, ious = _check_outlines(values, counts, images, image_sizes, expected, places)
        return problems + more, ious
    if (wrong := np.flatnonzero(counts != _BOX_VALUES)).size:
        raise ValueError(f"{places[images[wrong[0]]]} has the label {' '.join(tokens[wrong[0]])!r}, which is no box")
    table = values.reshape(-1, _BOX_VALUES)
    middle, half = table[:, 1:3] * image_sizes, table[:, 3:5] * image_sizes / 2
    found = ReadLabels(images, table[:, 0].astype(np.int64), np.concatenate([middle - half, middle + half], axis=1))
    return problems + check_labels(found, labels, classes, places, has_boxes=True)[2], np.empty(0)


def _check_data_yaml(text: str, expected: str) -> list[str]:
    if text == expected:
        return []
    said, true = yaml.safe_load(text), yaml.safe_load(expected)
    return [
        f"data.yaml: {key} {said.get(key)}, the dataset has {true.get(key)}"
        for key in {**true, **said}
        if said.get(key) != true.get(key)
    ]


def _lines(root: Path, places: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The lines of the label file of each image, and a sentence for each file or image that lacks the other."""
    remaining = {
        f"labels/{split}/{name}"
        for split in file_names(root / "labels")
        for name in file_names(root / "labels" / split)
        if name.endswith(".txt")
    }
    lines: list[list[str]] = []
    problems: list[str] = []
    for place in places:
        name = f"labels/{place.removeprefix('images/').rpartition('.')[0]}.txt"
        if name not in remaining:
            lines.append([])
            problems += [f"{place}: has no label file"] if place else []
            continue
        remaining.remove(name)
        with open(f"{root}/{name}", encoding="utf-8") as file:  # noqa: PTH123
            lines.append([line for line in file.read().splitlines() if line.strip()])
    return lines, problems + [f"{name}: has no image" for name in sorted(remaining)]


def _check_outlines(
    values: NDArray[np.float64],
    counts: NDArray[np.int64],
    images: NDArray[np.int64],
    image_sizes: NDArray[np.int64],
    expected: Expected,
    places: Sequence[str],
) -> tuple[list[str], NDArray[np.float64]]:
    if (wrong := np.flatnonzero((counts % 2 == 0) | (counts < _OUTLINE_VALUES))).size:
        raise ValueError(f"{places[images[wrong[0]]]} has a label of {counts[wrong[0]]} numbers, which is no outline")
    labels = expected.labels
    firsts = np.cumsum(counts) - counts
    points = np.delete(values, firsts).reshape(-1, 2) * np.repeat(image_sizes, counts // 2, axis=0)
    outlines = np.split(points, np.cumsum(counts // 2)[:-1]) if len(counts) else []
    found = ReadLabels(images, values[firsts].astype(np.int64), np.empty((0, 4)))
    of_found, of_labels, problems = check_labels(found, labels, expected.dataset.classes, places, has_boxes=False)
    image = image_of(labels)
    problems += [
        f"{places[image[k]]}: {labels.object_ids[k]} has another outline than in the dataset"
        for k in of_labels[~_same([outlines[i] for i in of_found], labels, of_labels)]
    ]
    masked = [(i, k) for i, k in zip(of_found.tolist(), of_labels.tolist(), strict=True) if labels.rles[k] is not None]
    members = [k for _, k in masked]
    ious = _overlaps([outlines[i] for i, _ in masked], labels, members)
    return problems + low_overlaps(ious, MIN_MASK_IOU, members, labels, places), ious


def _same(outlines: Sequence[NDArray[np.float64]], labels: Labels, members: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether outlines have the corners of those of some of the labels, but for what is rounded away: (k,)."""
    every = labels.outlines()
    true = [every[k] for k in members]
    same = np.array([len(one) == len(other) for one, other in zip(outlines, true, strict=True)], dtype=np.bool_)
    if same.any():
        alike = np.flatnonzero(same)
        lengths = np.array([len(true[i]) for i in alike.tolist()])
        apart = np.abs(
            np.concatenate([outlines[i] for i in alike.tolist()]) - np.concatenate([true[i] for i in alike.tolist()])
        )
        furthest = np.maximum.reduceat(apart.max(axis=1), np.cumsum(lengths) - lengths)
        same[alike] = furthest <= tolerances(labels)[members[alike]]
    return same


def _overlaps(outlines: Sequence[NDArray[np.float64]], labels: Labels, members: Sequence[int]) -> NDArray[np.float64]:
    """What each outline, filled by COCO's own library, shares with the mask of its label (IoU): (k,)."""
    if not members:
        return np.empty(0)
    sizes = labels.sizes[members][:, ::-1].astype(int).tolist()
    true = [{"size": size, "counts": labels.rles[k]} for size, k in zip(sizes, members, strict=True)]
    drawn = [
        coco_masks.frPyObjects([outline.ravel().tolist()], *size)[0]
        for outline, size in zip(outlines, sizes, strict=True)
    ]
    shared = [coco_masks.merge(list(pair), True) for pair in zip(drawn, true, strict=True)]
    areas = np.array([[float(coco_masks.area(mask)) for mask in masks] for masks in (drawn, true, shared)])
    union = areas[0] + areas[1] - areas[2]
    return np.asarray(np.divide(areas[2], union, out=np.zeros(len(members)), where=union > 0))
