"""Deciding what a file is: a source, with its hashes and size, or quarantined, with the reason."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image as Pillow

from al_dagster.core.errors import UnreadableFileError
from al_dagster.core.ids import source_id
from al_dagster.core.schemas import SOURCES
from al_dagster.media.inbox import leaves
from al_dagster.media.pixels import Image
from al_dagster.media.reading import Decoded, decode, open_file

KeepImage = Callable[[str, Image], None]
"""Takes the SHA-256 of a readable file and its image."""

_HASH_SIDE = 16
_HASH_INPUT = 256


def inspect_file(
    path: Path | str, *, root: Path | None, max_pixels: int, keep: KeepImage | None = None
) -> dict[str, Any]:
    """A file's row in the ``sources`` table; a file that cannot be read makes a quarantined row, never an error.

    The file is decoded whole, so a row that is ``ready`` is proof that the image can be read.

    Args:
        path: the file.
        root: the folder that a link must not lead out of; None allows every target.
        max_pixels: an image of more pixels than this is quarantined before it is decoded.
        keep: is given the decoded image, so that the next stage need not decode it again.

    Returns:
        The keys of ``core.schemas.SOURCES``. ``status`` is ``ready``, or ``quarantined`` with ``reason``; then
        ``source_id``, hashes, width and height are None. ``metadata`` is JSON: format, mode, exif_orientation, and
        ``plain``, true when an exporter may link the file as it is.
    """
    row: dict[str, Any] = dict.fromkeys(SOURCES.names)
    row["file_path"] = str(path)
    leads_out = root is not None and leaves(str(path), os.path.realpath(root))
    before = _signature(Path(path), follow=not leads_out)
    if before is not None:
        row["size_bytes"], row["mtime_ns"] = before[1:]
    try:
        if leads_out:
            raise UnreadableFileError("links to a file outside the folder")
        with open_file(path) as file:
            decoded = decode(file, suffix=Path(path).suffix, max_pixels=max_pixels)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if _signature(Path(path)) != before:
                raise UnreadableFileError("changed while it was being read")
        row.update(_readable(decoded, sha256))
    except UnreadableFileError as error:
        return {**row, "status": "quarantined", "reason": str(error)}
    if keep is not None:
        keep(sha256, decoded.pixels())
    return row


def inspect_files(
    paths: Sequence[Path | str],
    *,
    root: Path | None,
    max_pixels: int,
    workers: int | None = None,
    keep: KeepImage | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """The rows of files, in their order, inspected in a few threads; see ``inspect_file``.

    Args:
        paths: the files.
        root: the folder that a link must not lead out of; None allows every target.
        max_pixels: an image of more pixels than this is quarantined before it is decoded.
        workers: threads; by default one a core, at most 8, since each may hold a decoded image.
        keep: is given each decoded image; called from several threads.
        progress: called with the number of files done and of all.
    """
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), thread_name_prefix="inspect") as pool:
        for row in pool.map(lambda path: inspect_file(path, root=root, max_pixels=max_pixels, keep=keep), paths):
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(paths))
    return rows


def perceptual_hash(picture: Pillow.Image) -> str:
    """The 256-bit perceptual hash of a picture as 64 hex characters; alike pictures differ in few bits."""
    import imagehash

    width, height = picture.size
    shrink = (max(1, width // _HASH_INPUT), max(1, height // _HASH_INPUT))
    return str(imagehash.phash(picture.reduce(shrink), hash_size=_HASH_SIDE))


def _readable(decoded: Decoded, sha256: str) -> dict[str, Any]:
    width, height = decoded.picture.size
    metadata = {
        "format": decoded.format,
        "mode": decoded.mode,
        "exif_orientation": decoded.exif_orientation,
        "plain": decoded.plain,
    }
    return {
        "status": "ready",
        "source_id": source_id(sha256),
        "source_type": "image",
        "sha256": sha256,
        "perceptual_hash": perceptual_hash(decoded.picture),
        "width": width,
        "height": height,
        "frame_count": 1,
        "metadata": json.dumps(metadata, sort_keys=True),
    }


def _signature(path: Path, *, follow: bool = True) -> tuple[int, int, int] | None:
    """Inode, size and time of change, which differ once a file was written to or replaced; None if it has vanished."""
    for follow_symlinks in (True, False) if follow else (False,):
        try:
            status = path.stat(follow_symlinks=follow_symlinks)
        except OSError:
            continue
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None
