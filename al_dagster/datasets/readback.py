"""What was read back of an export, compared with the frozen dataset: images, classes and boxes, in any format."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from al_dagster.datasets.frozen import DatasetImage, FrozenDataset
from al_dagster.datasets.images import image_folder
from al_dagster.datasets.labels import Labels
from al_dagster.datasets.splits import SPLITS

TOLERANCE = 0.01
"""In pixels: what the formats round away, and more."""
YOLO_STEP = 2e-6
"""What YOLO rounds away of the image's longer side, and more."""


class ImageSizes:
    """Width and height of the image files of an export in pixels.

    A file that has the bytes of the original has its size, which was measured when it was registered. The header of any
    other is opened once, whatever number of links lead to it.

    Args:
        folder: the export.
        hashes: SHA-256 of its files, by their path in it, where they are known to be right.
    """

    def __init__(self, folder: Path, hashes: Mapping[str, str]) -> None:
        self._folder, self._hashes = folder, hashes
        self._opened: dict[tuple[int, int], tuple[int, int]] = {}

    def of(self, name: str, image: DatasetImage) -> tuple[int, int]:
        """The size of the file of an image.

        Args:
            name: its path in the export.
            image: what it must be.

        Raises:
            OSError: it is missing or no image.
        """
        if image.frame_idx == 0 and self._hashes.get(name) == image.sha256:
            return image.width, image.height
        path = self._folder / name
        status = path.stat()
        key = (status.st_dev, status.st_ino)
        if key not in self._opened:
            with Pillow.open(path) as picture:
                self._opened[key] = picture.size
        return self._opened[key]


@dataclass(frozen=True)
class Expected:
    """The dataset that an export must hold.

    Args:
        dataset: the dataset.
        labels: its labels.
        index: the place of each image among its images, by its name in the export.
    """

    dataset: FrozenDataset
    labels: Labels
    index: dict[str, int]


@dataclass(frozen=True)
class ReadLabels:
    """Labels that were read back.

    Args:
        images: (n,), the place of the image of each label among those of the dataset, ascending.
        class_ids: (n,), from 0.
        boxes: (n, 4), x1, y1, x2, y2 in pixels.
    """

    images: NDArray[np.int64]
    class_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]


def check_images(root: Path, expected: Expected, sizes: ImageSizes) -> tuple[list[str], list[str]]:
    """Compare the image files of a format with the images of the dataset.

    Args:
        root: the folder of the format.
        expected: what it must hold.
        sizes: of the image files of the export.

    Returns:
        Where the file of each image is, as a path in the folder (empty where it is missing), and a sentence for each
        difference.
    """
    places, problems = [""] * len(expected.index), []
    for split in SPLITS:
        folder = image_folder(split).as_posix()
        names = sorted(file_names(root / folder))
        for name in names:
            where = f"{folder}/{name}"
            index = expected.index.get(name.rpartition(".")[0])
            if index is None:
                problems.append(f"{where}: is no image of the dataset")
                continue
            image = expected.dataset.images[index]
            if image.split != split:
                problems.append(f"{where}: is in {split}, the dataset has it in {image.split}")
            width, height = sizes.of(f"{root.name}/{where}", image)
            if (width, height) != (image.width, image.height):
                problems.append(f"{where}: is {width}×{height}, the dataset has {image.width}×{image.height}")
            places[index] = where
    problems += [
        f"{image.name}: is missing from the export"
        for image, place in zip(expected.dataset.images, places, strict=True)
        if not place
    ]
    return places, problems


def check_labels(
    found: ReadLabels, labels: Labels, classes: Sequence[str], places: Sequence[str], *, has_boxes: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Compare labels that were read back with those of the dataset.

    Args:
        found: what was read.
        labels: what must be.
        classes: of the dataset.
        places: where each image is, for the sentences; nothing is said of the labels of an image without place.
        has_boxes: whether the boxes are compared as well.

    Returns:
        The places among the labels read and among those of the dataset of all that stand in images with as many labels
        as must be, and a sentence for each difference.
    """
    starts = np.searchsorted(found.images, np.arange(len(labels.starts)))
    have, must = np.diff(starts), np.diff(labels.starts)
    is_placed = np.array([bool(place) for place in places], dtype=np.bool_)
    problems = [
        f"{places[index]}: has {have[index]} objects, the dataset has {must[index]}"
        for index in np.flatnonzero((have != must) & is_placed).tolist()
    ]
    whole = np.flatnonzero((have == must) & is_placed)
    of_found, of_labels = _ranges(starts[whole], have[whole]), _ranges(labels.starts[whole], must[whole])
    image = np.repeat(whole, must[whole])
    other = found.class_ids[of_found] != labels.class_ids[of_labels]
    problems += [
        f"{places[image[i]]}: {labels.object_ids[of_labels[i]]} is {_class(classes, found.class_ids[of_found[i]])}, "
        f"the dataset has {classes[labels.class_ids[of_labels[i]]]}"
        for i in np.flatnonzero(other).tolist()
    ]
    if has_boxes:
        box, true = found.boxes[of_found], labels.boxes[of_labels]
        # Not a number is no place either.
        wrong = ~(np.abs(box - true) <= tolerances(labels)[of_labels, None]).all(axis=1)
        problems += [
            f"{places[image[i]]}: {labels.object_ids[of_labels[i]]} has the box {box[i].round(2).tolist()}, "
            f"the dataset has {true[i].round(2).tolist()}"
            for i in np.flatnonzero(wrong).tolist()
        ]
    return of_found, of_labels, problems


def file_names(folder: Path) -> list[str]:
    """The names of what is in a folder; none if it is not there."""
    return os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208


def tolerances(labels: Labels) -> NDArray[np.float64]:
    """(n,): by how many pixels a coordinate of each label may differ."""
    return np.asarray(TOLERANCE + YOLO_STEP * labels.sizes.max(axis=1, initial=0))


def image_of(labels: Labels) -> NDArray[np.int64]:
    """(n,): the place of the image of each label among those of the dataset."""
    return np.repeat(np.arange(len(labels.starts) - 1), np.diff(labels.starts))


def low_overlaps(
    ious: NDArray[np.float64], limit: float, members: Sequence[int], labels: Labels, places: Sequence[str]
) -> list[str]:
    """A sentence for each mask that shares less than a limit with the one it was made from.

    Args:
        ious: (k,), 0–1.
        limit: what each must reach.
        members: the labels that they are of.
        labels: of the dataset.
        places: where each image is.
    """
    images = image_of(labels)
    return [
        f"{places[images[members[i]]]}: {labels.object_ids[members[i]]} has another mask than in the dataset: "
        f"IoU {ious[i]:.3f}, and {limit:g} must be"
        for i in np.flatnonzero(ious < limit).tolist()
    ]


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of all ranges, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def _class(classes: Sequence[str], class_id: int) -> str:
    return classes[class_id] if 0 <= class_id < len(classes) else f"of no class ({class_id})"
