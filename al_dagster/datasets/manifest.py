"""The manifest of an export: what it holds and the hash of every file, so that damage and additions show."""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from al_dagster.core.errors import UserError
from al_dagster.core.hashing import file_sha256
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.splits import SPLITS

MANIFEST = "manifest.json"
_LAYOUT = 2
_CACHES = ".cache"


def describe(dataset: FrozenDataset) -> dict[str, Any]:
    """What a manifest says of its dataset, beside the images and files."""
    members = {split: [image for image in dataset.images if image.split == split] for split in SPLITS}
    counts = {
        split: {
            "images": len(images),
            "background": sum(not image.objects for image in images),
            "objects": sum(len(image.objects) for image in images),
            "ignored": sum(len(image.ignored) for image in images),
        }
        for split, images in members.items()
    }
    return {
        "layout": _LAYOUT,
        "dataset_id": dataset.dataset_id,
        "name": dataset.name,
        "version": dataset.version,
        "content_hash": dataset.content_hash,
        "project": dataset.definition.project,
        "formats": list(dataset.definition.formats),
        "links": dataset.definition.images == "link",
        "coco_masks": dataset.definition.coco_masks,
        "classes": list(dataset.classes),
        "counts": counts,
    }


def describe_images(dataset: FrozenDataset, files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Where each exported image comes from.

    Args:
        dataset: what is exported.
        files: file name of each image.

    Returns:
        By file name: the source and its place in it (``frame_idx``), the original's SHA-256 and its path.
    """
    return {
        name: {
            "source_id": image.source_id,
            "frame_idx": image.frame_idx,
            "sha256": image.sha256,
            "original": image.file_path,
        }
        for name, image in zip(files, dataset.images, strict=True)
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest.

    Args:
        folder: the export.
        manifest: what ``describe`` gave, with ``images`` of ``describe_images`` and ``files``, the SHA-256 of each file
            by its path in the export.
    """
    content = orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    (folder / MANIFEST).write_bytes(content)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export.

    Raises:
        UserError: there is none, or it is not one.
    """
    path = folder / MANIFEST
    try:
        manifest = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: export the dataset first") from None
    except ValueError:
        raise UserError(f"{path} is damaged: export the dataset again") from None
    if not isinstance(manifest, dict) or not all(isinstance(manifest.get(key), dict) for key in ("files", "counts")):
        raise UserError(f"{path} is not the manifest of an export: export the dataset again")
    return manifest


def damaged_files(folder: Path, files: Mapping[str, str], *, intact_at: datetime | None = None) -> list[str]:
    """A sentence for each listed file that is missing or whose bytes have changed.

    Args:
        folder: the export.
        files: SHA-256 of each file, by its path in the export.
        intact_at: when all files in this very place were known to be right. A file whose status has not changed since
            is not read again: that time, unlike the time of change of its content, cannot be set back.
    """
    trusted_ns = 0 if intact_at is None else int(intact_at.timestamp() * 1e9)
    hashes: dict[tuple[int, int], str] = {}
    problems = []
    for name, expected in sorted(files.items()):
        path = f"{folder}/{name}"
        try:
            status = os.stat(path)  # noqa: PTH116
            if status.st_ctime_ns < trusted_ns:
                continue
            # The formats share their images as links: each is read once.
            key = (status.st_dev, status.st_ino)
            if key not in hashes:
                hashes[key] = file_sha256(Path(path))
        except OSError:
            problems.append(f"{name}: is missing or cannot be read")
            continue
        if hashes[key] != expected:
            problems.append(f"{name}: has changed since the export")
    return problems


def unlisted_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """A sentence for each file that the manifest does not list; the caches that training leaves are no matter."""
    return [
        f"{name}: does not belong to the export"
        for name in sorted(_files_below(str(folder), ""))
        if name not in files and name != MANIFEST and not name.endswith(_CACHES)
    ]


def is_intact(folder: Path, dataset: FrozenDataset) -> bool:
    """Whether a folder is a whole, undamaged export of a dataset, with nothing in it that does not belong to it."""
    try:
        manifest = read_manifest(folder)
    except (UserError, OSError):
        return False
    files, images = manifest.pop("files"), manifest.pop("images", {})
    # An image's extension shows only when it is placed.
    names = {Path(name).stem: name for name in images}
    expected = describe_images(dataset, [names.get(image.name, "") for image in dataset.images])
    if (manifest, images) != (describe(dataset), expected) or unlisted_files(folder, files):
        return False
    return not damaged_files(folder, files)


def _files_below(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files_below(entry.path, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name
