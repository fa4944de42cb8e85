"""Deciding what a file is: a source, with its hashes and size, or quarantined, with the reason."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image as Pillow

from al_dagster.core.errors import UnreadableFileError
from al_dagster.core.ids import source_id
from al_dagster.core.schemas import SOURCES
from al_dagster.media.inbox import leaves
from al_dagster.media.pixels import Image
from al_dagster.media.reading import Decoded, decode, open_file, page_count

KeepImage = Callable[[str, Image], None]
"""Takes the SHA-256 of a readable file and the image of its first page."""

THUMBNAIL_SIDE = 32
"""Pixels along each side of a source's thumbnail."""

_HASH_SIDE = 16
_HASH_INPUT = 256


def inspect_file(
    path: Path | str, *, root: Path | None, max_pixels: int, keep: KeepImage | None = None
) -> dict[str, Any]:
    """A file's row in the ``sources`` table; a file that cannot be read makes a quarantined row, never an error.

    The file is decoded whole, page by page, so a row that is ``ready`` is proof that the image can be read.

    Args:
        path: the file.
        root: the folder that a link must not lead out of; None allows every target.
        max_pixels: an image of more pixels than this is quarantined before it is decoded.
        keep: is given the decoded image of the first page, so that the next stage need not decode it again.

    Returns:
        The keys of ``core.schemas.SOURCES``. ``status`` is ``ready``, or ``quarantined`` with ``reason``; then
        ``source_id``, hashes, width and height are None. A ready row has a ``reason`` where something of the file is
        left out: pages that cannot be read, and all but the first picture of an animation. Width, height, perceptual
        hash, thumbnail and time of capture are those of the first page that can be read.

        ``metadata`` is JSON: format, mode, exif_orientation; ``plain``, true when an exporter may link the file as it
        is; of a file of several pages ``pages``, the upright [width, height] of each in pixels, null for one that
        cannot be read; of an animation ``pictures``, how many it has; ``left_out``, the reason of a ready row.
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
            found = _decode_pages(file, Path(path).suffix, max_pixels)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if _signature(Path(path)) != before:
                raise UnreadableFileError("changed while it was being read")
        row.update(_readable(found, sha256))
    except UnreadableFileError as error:
        return {**row, "status": "quarantined", "reason": str(error)}
    if keep is not None and found.sizes[0] is not None:
        keep(sha256, found.first.pixels())
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
    return _hash(_reduced(picture))


def thumbnail(picture: Pillow.Image) -> bytes:
    """A picture as ``THUMBNAIL_SIDE``² grey levels, row by row, one byte each: averages over equal areas of it."""
    return _thumbnail(_reduced(picture))


def _reduced(picture: Pillow.Image) -> Pillow.Image:
    width, height = picture.size
    return picture.reduce((max(1, width // _HASH_INPUT), max(1, height // _HASH_INPUT)))


def _hash(reduced: Pillow.Image) -> str:
    import imagehash

    return str(imagehash.phash(reduced, hash_size=_HASH_SIDE))


def _thumbnail(reduced: Pillow.Image) -> bytes:
    grey = reduced.convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Pillow.Resampling.BOX)
    return np.asarray(grey).tobytes()


class _Pages(NamedTuple):
    """What was found in a file: the first page that can be read, and all pages' sizes, None where one cannot."""

    first: Decoded
    sizes: list[tuple[int, int] | None]
    reasons: list[str]


def _decode_pages(file: BinaryIO, suffix: str, max_pixels: int) -> _Pages:
    """Decode every page, one at a time.

    Raises:
        UnreadableFileError: none can be read; the reason is that of the first.
    """
    count = page_count(file)
    first: Decoded | None = None
    sizes: list[tuple[int, int] | None] = []
    errors: dict[int, UnreadableFileError] = {}
    for page in range(count):
        try:
            decoded = decode(file, suffix=suffix, max_pixels=max_pixels, page=page)
        except UnreadableFileError as error:
            errors[page] = error
            sizes.append(None)
        else:
            first = first or decoded
            sizes.append(decoded.picture.size)
    if first is None:
        raise errors[0]
    reasons = [f"page {page + 1} of {count} is left out: it {error}" for page, error in errors.items()]
    if first.pictures > 1:
        kind = "pictures" if first.format in ("MPO", "PPM") else "frames"
        reasons.append(f"only the first of the {first.pictures} {kind} of this file is labelled")
    return _Pages(first, sizes, reasons)


def _readable(found: _Pages, sha256: str) -> dict[str, Any]:
    first = found.first
    width, height = first.picture.size
    metadata: dict[str, Any] = {
        "format": first.format,
        "mode": first.mode,
        "exif_orientation": first.exif_orientation,
        "plain": first.plain,
    }
    if len(found.sizes) > 1:
        metadata["pages"] = found.sizes
    if first.pictures > 1:
        metadata["pictures"] = first.pictures
    if found.reasons:
        metadata["left_out"] = "; ".join(found.reasons)
    reduced = _reduced(first.picture)
    return {
        "status": "ready",
        "reason": metadata.get("left_out"),
        "source_id": source_id(sha256),
        "source_type": "image",
        "sha256": sha256,
        "perceptual_hash": _hash(reduced),
        "width": width,
        "height": height,
        "frame_count": len(found.sizes),
        "captured_at": first.captured_at,
        "thumbnail": _thumbnail(reduced),
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
