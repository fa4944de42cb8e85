"""A throwaway copy of an export, in links, for the training process to work in.

The trainer writes label caches beside the labels and replaces pictures that it finds damaged. In its own folder of
links it can change neither the export nor the user's files. It takes the pictures in the order of their names, which
are made of their content here, so that the same dataset gives the same model whatever its files are called.
"""

from pathlib import Path

import yaml

from al_dagster.core.errors import UserError
from al_dagster.training.dataset import ExportedDataset


def stage(dataset: ExportedDataset, folder: Path) -> tuple[Path, str]:
    """Link a dataset's train and val splits into an empty folder.

    Args:
        dataset: the export.
        folder: a folder that does not exist yet.

    Returns:
        The ``data.yaml`` to train with, and the split that validates: ``val``, or ``train`` if ``val`` has no images.

    Raises:
        UserError: there is nothing to train on.
    """
    if not any(_has_labels(dataset.label_file(image)) for image in dataset.images("train")):
        raise UserError(
            f"the train split of dataset {dataset.name} {dataset.version} has no objects: "
            "label more images or change the split ratios, then build it again"
        )
    validation = "val" if dataset.images("val") else "train"
    for split in {"train", validation}:
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for image in dataset.images(split):
            name = dataset.content_names.get(image.name, image.stem)
            (images / f"{name}{image.suffix}").symlink_to(image.resolve())
            label = dataset.label_file(image)
            if label.exists():
                (labels / f"{name}.txt").symlink_to(label.resolve())
    path = folder / "data.yaml"
    content = {
        "path": str(folder.resolve()),
        "train": "images/train",
        "val": f"images/{validation}",
        "names": dict(enumerate(dataset.classes)),
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path, validation


def _has_labels(path: Path) -> bool:
    return path.exists() and bool(path.read_text(encoding="utf-8").strip())
