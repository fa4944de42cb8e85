"""Exporting a dataset: all formats in one folder, built aside and renamed into place as a whole."""

import shutil
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from filelock import FileLock

from al_dagster.core.errors import UnreadableFileError, UserError
from al_dagster.core.hashing import file_sha256
from al_dagster.core.progress import report
from al_dagster.datasets.export_coco import write_coco
from al_dagster.datasets.export_yolo import write_yolo
from al_dagster.datasets.frozen import DatasetImage, FrozenDataset
from al_dagster.datasets.images import PlacedImage, image_folder, link_or_copy, place_image
from al_dagster.datasets.manifest import describe, is_intact, read_manifest, write_manifest
from al_dagster.datasets.splits import SPLITS
from al_dagster.registry.database import Registry
from al_dagster.registry.datasets import mark_exported

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
        linked: images that are links to the originals.
        copied: images that are copies of the originals.
        written: images written anew, since the original is not plain.
        manifest: what ``manifest.json`` says.
    """

    folder: Path
    reused: bool
    linked: int
    copied: int
    written: int
    manifest: Mapping[str, Any]


def export_folder(exports_dir: Path, dataset: FrozenDataset) -> Path:
    """Where a version of a dataset is exported to."""
    return exports_dir / dataset.name / dataset.version


def export_dataset(registry: Registry, dataset: FrozenDataset, exports_dir: Path, *, max_pixels: int) -> Export:
    """Write a dataset to ``<exports_dir>/<name>/<version>/`` in the formats of its definition.

    The bytes depend on the dataset alone. A whole export that stands already is used again; a damaged one is replaced.
    A process that dies leaves at most a hidden staging folder, which the next call clears.

    Args:
        registry: notes where the dataset was exported to.
        dataset: what to write.
        exports_dir: folder of all exports.
        max_pixels: originals of more pixels than this are not decoded.

    Raises:
        UserError: an original has vanished, cannot be read or has changed since it was labelled.
    """
    folder = export_folder(exports_dir, dataset)
    folder.parent.mkdir(parents=True, exist_ok=True)
    description = describe(dataset)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        reused = is_intact(folder, description)
        placings: Counter[str] = Counter()
        if not reused:
            staging = folder.with_name(f".{folder.name}.staging")
            _clear(staging)
            try:
                placed = _write(staging, dataset, description, max_pixels)
            except UserError:
                _clear(staging)
                raise
            placings.update(image.how for image in placed)
            _replace(folder, staging)
    mark_exported(registry, dataset.dataset_id, folder)
    log.info("dataset exported", dataset=dataset.name, version=dataset.version, folder=str(folder), reused=reused)
    return Export(folder, reused, placings["linked"], placings["copied"], placings["written"], read_manifest(folder))


def _write(staging: Path, dataset: FrozenDataset, description: Mapping[str, Any], max_pixels: int) -> list[PlacedImage]:
    formats = dataset.definition.formats
    roots = [staging / name for name in formats]
    placed = _place_images(roots[0], dataset, max_pixels)
    files: dict[str, str] = {}
    for root in roots:
        _make_image_folders(root)
        for image, original in zip(dataset.images, placed, strict=True):
            path = root / image_folder(image.split) / original.path.name
            if root != roots[0]:
                link_or_copy(original.path, path)
            files[path.relative_to(staging).as_posix()] = original.sha256
    names = {image.name: placed_image.path.name for image, placed_image in zip(dataset.images, placed, strict=True)}
    for root in roots:
        if root.name == "coco":
            write_coco(root, dataset, names)
        else:
            write_yolo(root, dataset, segmentation=root.name == "yolo-seg")
    for path in sorted(staging.rglob("*")):
        name = path.relative_to(staging).as_posix()
        if path.is_file() and name not in files:
            files[name] = file_sha256(path)
    write_manifest(staging, description, files)
    return placed


def _place_images(root: Path, dataset: FrozenDataset, max_pixels: int) -> list[PlacedImage]:
    _make_image_folders(root)

    def place(image: DatasetImage) -> PlacedImage | str:
        try:
            return place_image(image, root / image_folder(image.split), max_pixels=max_pixels)
        except UnreadableFileError as error:
            return f"{image.file_path} {error}"

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
    staging.rename(folder)
    _clear(old)


def _clear(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
