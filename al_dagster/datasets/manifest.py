"""The manifest of an export: what it holds and the hash of every file, so that damage and additions show."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from al_dagster.core.errors import UserError
from al_dagster.core.hashing import file_sha256
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.splits import SPLITS

MANIFEST = "manifest.json"
_LAYOUT = 1
_CACHES = ".cache"


def describe(dataset: FrozenDataset) -> dict[str, Any]:
    """What a manifest says of its dataset, beside the files."""
    counts = {
        split: {
            "images": sum(image.split == split for image in dataset.images),
            "background": sum(image.split == split and not image.objects for image in dataset.images),
            "objects": sum(len(image.objects) for image in dataset.images if image.split == split),
        }
        for split in SPLITS
    }
    return {
        "layout": _LAYOUT,
        "dataset_id": dataset.dataset_id,
        "name": dataset.name,
        "version": dataset.version,
        "content_hash": dataset.content_hash,
        "project": dataset.definition.project,
        "formats": list(dataset.definition.formats),
        "classes": list(dataset.classes),
        "counts": counts,
    }


def write_manifest(folder: Path, description: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Write a manifest.

    Args:
        folder: the export.
        description: what ``describe`` gave.
        files: SHA-256 of each file, by its path in the export.
    """
    text = json.dumps({**description, "files": dict(files)}, sort_keys=True, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export.

    Raises:
        UserError: there is none, or it is not one.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: export the dataset first") from None
    except ValueError:
        raise UserError(f"{path} is damaged: export the dataset again") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise UserError(f"{path} is not the manifest of an export: export the dataset again")
    return manifest


def damaged_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """A sentence for each listed file that is missing or whose bytes have changed."""
    hashes: dict[tuple[int, int], str] = {}
    problems = []
    for name, expected in sorted(files.items()):
        path = folder / name
        try:
            status = path.stat()
            # The formats share their images as links: each is read once.
            key = (status.st_dev, status.st_ino)
            if key not in hashes:
                hashes[key] = file_sha256(path)
        except OSError:
            problems.append(f"{name}: is missing or cannot be read")
            continue
        if hashes[key] != expected:
            problems.append(f"{name}: has changed since the export")
    return problems


def unlisted_files(folder: Path, files: Mapping[str, str]) -> list[str]:
    """A sentence for each file that the manifest does not list; the caches that training leaves are no matter."""
    present = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        f"{name}: does not belong to the export"
        for name in present
        if name not in files and name != MANIFEST and not name.endswith(_CACHES)
    ]


def is_intact(folder: Path, description: Mapping[str, Any]) -> bool:
    """Whether a folder is a whole, undamaged export of this description."""
    try:
        manifest = read_manifest(folder)
    except (UserError, OSError):
        return False
    files = manifest.pop("files")
    return manifest == description and not damaged_files(folder, files)
