"""Deciding what a file is: a source, with its hashes and size, or quarantined, with the reason."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from al_dagster.core.errors import UnreadableFileError
from al_dagster.core.ids import source_id
from al_dagster.core.schemas import SOURCES
from al_dagster.media.budget import PixelBudget
from al_dagster.media.inbox import leaves
from al_dagster.media.pixels import Image
from al_dagster.media.reading import Decoded, again_if_transient, decode_pages, open_file

KeepImage = Callable[[str, Image], None]
"""Takes the SHA-256 of a readable file and the image of its first page."""

_Signature = tuple[int, int, int]
"""Inode, size and time of change of a file, which differ once it was written to or replaced."""

THUMBNAIL_SIDE = 32
"""Pixels along each side of a source's thumbnail."""

_HASH_SIDE = 16
_HASH_INPUT = 256


def inspect_file(
    path: Path | str,
    *,
    root: Path | None,
    max_pixels: int,
    keep: KeepImage | None = None,
    budget: PixelBudget | None = None,
) -> dict[str, Any]:
    """A file's row in the ``sources`` table; a file that cannot be read makes a quarantined row, never an error.

    The file is decoded whole, page by page, so a row that is ``ready`` is proof that the image can be read.

    Args:
        path: the file.
        root: the folder that a link must not lead out of; None allows every target.
        max_pixels: an image of more pixels than this is quarantined before it is decoded.
        keep: is given the decoded image of the first page, so that the next stage need not decode it again.
        budget: what the page that is being read takes its pixels from; None where no other thread reads.

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
        return {**row, **_read(path, before, max_pixels, keep, budget or PixelBudget(max_pixels))}
    except UnreadableFileError as error:
        return {**row, "status": "quarantined", "reason": str(error)}


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

    All threads together hold images of ``max_pixels`` at most, or one image.

    Args:
        paths: the files.
        root: the folder that a link must not lead out of; None allows every target.
        max_pixels: an image of more pixels than this is quarantined before it is decoded.
        workers: threads; by default one a core, at most 8.
        keep: is given each decoded image; called from several threads.
        progress: called with the number of files done and of all.
    """
    rows: list[dict[str, Any]] = []
    inspect = partial(inspect_file, root=root, max_pixels=max_pixels, keep=keep, budget=PixelBudget(max_pixels))
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), thread_name_prefix="inspect") as pool:
        for row in pool.map(inspect, paths):
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


@again_if_transient
def _read(
    path: Path | str, before: _Signature | None, max_pixels: int, keep: KeepImage | None, budget: PixelBudget
) -> dict[str, Any]:
    """What a row says of a file that can be read and has not changed since ``before``.

    Raises:
        UnreadableFileError: it cannot, or has.
    """
    with open_file(path) as file, ExitStack() as held:

        def admit(pixels: int) -> None:
            held.close()
            held.enter_context(budget.hold(pixels))

        def take(first: Decoded) -> dict[str, Any]:
            place = file.tell()
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(place)
            if keep is not None and _signature(Path(path)) == before:
                keep(sha256, first.pixels())
            return _described(first, sha256)

        found = _read_pages(decode_pages(file, suffix=Path(path).suffix, max_pixels=max_pixels, admit=admit), take)
        if _signature(Path(path)) != before:
            raise UnreadableFileError("changed while it was being read")
    return found


def _read_pages(
    pages: Iterator[Decoded | UnreadableFileError], take: Callable[[Decoded], dict[str, Any]]
) -> dict[str, Any]:
    """What a row says of a file's pages, of which one is held at a time.

    Args:
        pages: of the file.
        take: is given the first page that can be read; makes the row of a file that has no other.

    Raises:
        UnreadableFileError: none can be read; the reason is that of the first.
    """
    row: dict[str, Any] | None = None
    sizes: list[tuple[int, int] | None] = []
    errors: dict[int, str] = {}
    while (page := next(pages, None)) is not None:
        if isinstance(page, UnreadableFileError):
            sizes.append(None)
            errors[len(sizes)] = str(page)
        else:
            sizes.append(page.picture.size)
            row = row or take(page)
        del page  # The next page may take its place in memory.
    if row is None:
        raise UnreadableFileError(errors[1])
    metadata = row["metadata"]
    reasons = [f"page {number} of {len(sizes)} is left out: it {error}" for number, error in errors.items()]
    if (pictures := metadata.get("pictures", 1)) > 1:
        kind = "pictures" if metadata["format"] in ("MPO", "PPM") else "frames"
        reasons.append(f"only the first of the {pictures} {kind} of this file is labelled")
    if len(sizes) > 1:
        metadata["pages"] = sizes
    if reasons:
        metadata["left_out"] = "; ".join(reasons)
    return {
        **row,
        "reason": metadata.get("left_out"),
        "frame_count": len(sizes),
        "metadata": json.dumps(metadata, sort_keys=True),
    }


def _described(first: Decoded, sha256: str) -> dict[str, Any]:
    """The row of a file whose first page is all that it holds; its metadata is no JSON yet."""
    width, height = first.picture.size
    metadata: dict[str, Any] = {
        "format": first.format,
        "mode": first.mode,
        "exif_orientation": first.exif_orientation,
        "plain": first.plain,
    }
    if first.pictures > 1:
        metadata["pictures"] = first.pictures
    reduced = _reduced(first.picture)
    return {
        "status": "ready",
        "source_id": source_id(sha256),
        "source_type": "image",
        "sha256": sha256,
        "perceptual_hash": _hash(reduced),
        "width": width,
        "height": height,
        "captured_at": first.captured_at,
        "thumbnail": _thumbnail(reduced),
        "metadata": metadata,
    }


def _signature(path: Path, *, follow: bool = True) -> _Signature | None:
    """The signature of a file, or None if it has vanished."""
    for follow_symlinks in (True, False) if follow else (False,):
        try:
            status = path.stat(follow_symlinks=follow_symlinks)
        except OSError:
            continue
        return status.st_ino, status.st_size, status.st_mtime_ns
    return None
