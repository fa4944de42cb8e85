"""Exporting a dataset: all formats in one folder, built aside and renamed into place as a whole."""

import shutil
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from filelock import FileLock

from al_dagster.core.errors import UnreadableFileError, UserError
from al_dagster.core.files import move_whole
from al_dagster.core.progress import report
from al_dagster.datasets.export_coco import write_coco
from al_dagster.datasets.export_yolo import check_trainable, write_yolo
from al_dagster.datasets.frozen import DatasetImage, FrozenDataset
from al_dagster.datasets.images import PlacedImage, Placing, image_folder, link_or_copy, place_image
from al_dagster.datasets.labels import ignored_of, labels_of
from al_dagster.datasets.manifest import describe, describe_images, is_intact, read_manifest, write_manifest
from al_dagster.datasets.splits import SPLITS
from al_dagster.media.budget import PixelBudget
from al_dagster.registry.database import Registry
from al_dagster.registry.datasets import mark_exported
from al_dagster.registry.paths import seen_files

log = structlog.get_logger(__name__)

_STEP = "export"
_WORKERS = 4
_NAMED_FILES = 5


@dataclass(frozen=True)
class Export:
    """A dataset on disk.

    Args:
        folder: holds ``manifest.json`` and a folder for each format.
        reused: whether it stood whole already, so that nothing was written.
        cloned: images that share the originals' blocks until either is edited.
        copied: images that are copies of the originals.
        linked: images that are links to the originals, as the definition asks for.
        written: images written anew, since the original is not plain or holds ignored objects.
        manifest: what ``manifest.json`` says.
    """

    folder: Path
    reused: bool
    cloned: int
    copied: int
    linked: int
    written: int
    manifest: Mapping[str, Any]


def export_folder(exports_dir: Path, dataset: FrozenDataset) -> Path:
    """Where a version of a dataset is exported to."""
    return exports_dir / dataset.name / dataset.version


def export_dataset(registry: Registry, dataset: FrozenDataset, exports_dir: Path, *, max_pixels: int) -> Export:
    """Write a dataset to ``<exports_dir>/<name>/<version>/`` in the formats of its definition.

    The bytes depend on the dataset's rows alone. The formats share the image files as hard links where the file system
    has them. A whole export that stands already is used again; a damaged one is replaced. A process that dies leaves at
    most a hidden staging folder, which the next call clears.

    Args:
        registry: knows where the originals were seen, and notes where the dataset was exported to.
        dataset: what to write.
        exports_dir: folder of all exports.
        max_pixels: originals of more pixels than this are not decoded.

    Raises:
        UserError: an original has vanished, cannot be read or has changed since it was labelled, or there is nothing to
            train on in a format for training.
    """
    if any(name in dataset.definition.formats for name in ("yolo", "yolo-seg")):
        check_trainable(dataset)
    folder = export_folder(exports_dir, dataset)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        reused = is_intact(folder, dataset)
        placings: Counter[Placing] = Counter()
        if not reused:
            staging = folder.with_name(f".{folder.name}.staging")
            _clear(staging)
            try:
                placed = _write(staging, registry, dataset, max_pixels)
            except UserError:
                _clear(staging)
                raise
            placings.update(image.how for image in placed)
            _replace(folder, staging)
    mark_exported(registry, dataset.dataset_id, folder)
    log.info("dataset exported", dataset=dataset.name, version=dataset.version, folder=str(folder), reused=reused)
    return Export(
        folder,
        reused,
        placings["cloned"],
        placings["copied"],
        placings["linked"],
        placings["written"],
        read_manifest(folder),
    )


def _write(staging: Path, registry: Registry, dataset: FrozenDataset, max_pixels: int) -> list[PlacedImage]:
    first, *others = dataset.definition.formats
    placed = _place_images(staging / first, registry, dataset, max_pixels)
    names = [image.path.name for image in placed]
    folders = [image_folder(image.split).as_posix() for image in dataset.images]
    files = {
        f"{format_name}/{image_path}/{name}": image.sha256
        for format_name in (first, *others)
        for image_path, name, image in zip(folders, names, placed, strict=True)
    }
    for format_name in others:
        _make_image_folders(staging / format_name)
        for image_path, image in zip(folders, placed, strict=True):
            link_or_copy(image.path, staging / format_name / image_path / image.path.name)
    labels = labels_of(dataset)
    for format_name in (first, *others):
        root = staging / format_name
        if format_name == "coco":
            written = write_coco(root, dataset, labels, ignored_of(dataset), names)
        else:
            written = write_yolo(root, dataset, labels, segmentation=format_name == "yolo-seg")
        files |= {f"{format_name}/{name}": digest for name, digest in written.items()}
    write_manifest(staging, {**describe(dataset), "images": describe_images(dataset, names), "files": files})
    return placed


def _place_images(root: Path, registry: Registry, dataset: FrozenDataset, max_pixels: int) -> list[PlacedImage]:
    _make_image_folders(root)
    seen = seen_files(registry, [image.source_id for image in dataset.images], dataset.definition.project)
    place_one = partial(
        place_image,
        links=dataset.definition.images == "link",
        max_pixels=max_pixels,
        budget=PixelBudget(max_pixels),
    )

    def place(image: DatasetImage) -> PlacedImage | str:
        paths = [file.file_path for file in seen.get(image.source_id, [])]
        originals = [Path(path) for path in dict.fromkeys([*paths, image.file_path])]
        try:
            return place_one(image, originals, root / image_folder(image.split))
        except UnreadableFileError as error:
            return str(error)

    placed: list[PlacedImage] = []
    problems: list[str] = []
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="export") as pool:
        for done, outcome in enumerate(pool.map(place, dataset.images), start=1):
            if isinstance(outcome, str):
                problems.append(outcome)
            else:
                placed.append(outcome)
            report(_STEP, done, len(dataset.images))
    if problems:
        more = f" and {len(problems) - _NAMED_FILES} more" if len(problems) > _NAMED_FILES else ""
        raise UserError(
            f"dataset {dataset.name} {dataset.version} cannot be exported: {'; '.join(problems[:_NAMED_FILES])}{more}; "
            "put the original files back, or label the changed ones again and build the dataset anew"
        )
    return placed


def _make_image_folders(root: Path) -> None:
    for split in SPLITS:
        (root / image_folder(split)).mkdir(parents=True, exist_ok=True)


def _replace(folder: Path, staging: Path) -> None:
    """Put the staged folder in its place; a folder cannot be renamed over another, so the old one steps aside."""
    old = folder.with_name(f".{folder.name}.old")
    _clear(old)
    if folder.exists():
        folder.rename(old)
    move_whole(staging, folder)
    _clear(old)


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
