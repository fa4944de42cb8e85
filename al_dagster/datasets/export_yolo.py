"""YOLO label files and ``data.yaml``, for detection and for segmentation."""

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from al_dagster.core.errors import UserError
from al_dagster.datasets.frozen import DatasetImage, FrozenDataset
from al_dagster.datasets.images import image_folder
from al_dagster.datasets.labels import Labels
from al_dagster.datasets.splits import SPLITS

_NO_VAL = "# The val split has no images: those of train stand in for it, since trainers ask for one.\n"
_BOX_LINE = "%d %.6f %.6f %.6f %.6f\n"


def label_file(image: DatasetImage) -> Path:
    """Where the labels of an image stand in the export."""
    return Path("labels", image.split, f"{image.name}.txt")


def check_trainable(dataset: FrozenDataset) -> None:
    """Refuse a dataset that no trainer can use.

    Raises:
        UserError: the train split has no images.
    """
    if all(image.split != "train" for image in dataset.images):
        raise UserError(
            f"dataset {dataset.name} {dataset.version} has no images in its train split, and YOLO needs some: add "
            "images of something else, say by 'grouping' in project.yaml what belongs together, or change the split "
            "ratios; then build it again"
        )


def write_yolo(folder: Path, dataset: FrozenDataset, labels: Labels, *, segmentation: bool) -> dict[str, str]:
    """Write ``data.yaml`` and a label file an image, empty for a background image.

    ``data.yaml`` names no ``path``: readers then take its paths from where it stands, so the export can be moved.

    Args:
        folder: the export; made if it is not there.
        dataset: what to write.
        labels: its labels.
        segmentation: a polygon an object; an object without a mask is written as the outline of its box, since
            readers refuse a file that mixes polygons and boxes. The parts and holes of a mask are joined by bridges
            without width.

    Returns:
        The SHA-256 of each file, by its path in the export.
    """
    splits = {image.split for image in dataset.images}
    for split in SPLITS:
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
    texts = outline_texts(labels) if segmentation else box_texts(labels)
    names = [f"labels/{image.split}/{image.name}.txt" for image in dataset.images]
    contents = zip(["data.yaml", *names], chain([data_yaml(dataset.classes, splits)], texts), strict=True)
    hashes = {}
    root = os.open(folder, os.O_RDONLY)
    try:
        for name, text in contents:
            content = text.encode()
            _write(name, content, root)
            hashes[name] = hashlib.sha256(content).hexdigest()
    finally:
        os.close(root)
    return hashes


def _write(name: str, content: bytes, root: int) -> None:
    """Write a file in an open folder; by the system's own calls, since opening is most of the work for a small one."""
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666, dir_fd=root)
    try:
        while content:
            content = content[os.write(file, content) :]
    finally:
        os.close(file)


def data_yaml(classes: Sequence[str], splits: Collection[str]) -> str:
    """The text of ``data.yaml``.

    Args:
        classes: in the order of their ids.
        splits: those that have images, ``train`` among them. No other is named, but that of train for ``val``: never
            do images of ``test`` choose a model.
    """
    folders = {split: image_folder(split).as_posix() for split in SPLITS if split in splits}
    head = yaml.safe_dump({"train": folders["train"]})
    if "val" not in folders:
        head += _NO_VAL + yaml.safe_dump({"val": folders["train"]})
    others: dict[str, str] = {split: path for split, path in folders.items() if split != "train"}
    rest: dict[str, Any] = {**others, "nc": len(classes), "names": dict(enumerate(classes))}
    return head + yaml.safe_dump(rest, sort_keys=False, allow_unicode=True, width=1000)


def box_texts(labels: Labels) -> Iterator[str]:
    """The text of the label file of each image: class, centre and size of the boxes."""
    sides = labels.boxes[:, 2:] - labels.boxes[:, :2]
    middles = (labels.boxes[:, :2] + labels.boxes[:, 2:]) / 2
    values = np.column_stack([labels.class_ids, middles / labels.sizes, sides / labels.sizes]).ravel().tolist()
    for start, end in pairwise(labels.starts.tolist()):
        yield _BOX_LINE * (end - start) % tuple(values[5 * start : 5 * end])


def outline_texts(labels: Labels) -> Iterator[str]:
    """The text of the label file of each image: class and corners of the outlines."""
    outlines = labels.outlines()
    counts = np.array([len(points) for points in outlines], dtype=np.int64)
    points = np.concatenate([*outlines, np.empty((0, 2))]) / np.repeat(labels.sizes, counts, axis=0)
    values, ends = points.ravel().tolist(), np.cumsum(2 * counts).tolist()
    lines = [
        f"{class_id}" + " %.6f" * (end - start) % tuple(values[start:end]) + "\n"
        for class_id, (start, end) in zip(labels.class_ids.tolist(), pairwise([0, *ends]), strict=True)
    ]
    for start, end in pairwise(labels.starts.tolist()):
        yield "".join(lines[start:end])
