"""Files that are whole: a reader sees the old content or the new one, also after the power went."""

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from al_dagster.core.failpoints import reach

_SYNCERS = 8


def write_whole(
    path: Path, content: bytes | Callable[[BinaryIO], None], *, name: str = "file", sync_folder: bool = True
) -> None:
    """Replace a file, making its folder: written beside its place under a hidden name, synced, renamed into place.

    Args:
        path: the file.
        content: all of it, or what writes it to an open file.
        name: what the file is, for failpoints.
        sync_folder: whether the rename itself is made to last at once; if not, whoever calls syncs the folder later.
    """
    staged = path.with_name(f".{uuid.uuid4().hex}")
    try:
        try:
            file = staged.open("wb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = staged.open("wb")
        with file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        reach(f"{name} half written")
        staged.replace(path)
        reach(f"{name} written")
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    if sync_folder:
        sync(path.parent)


def move_whole(staged: Path, place: Path) -> None:
    """Rename a file or a folder, once all that is in it has reached the disk, to a place where nothing is."""
    if staged.is_dir():
        files: dict[tuple[int, int], Path] = {}
        folders = []
        for folder, _, names in os.walk(staged):
            folders.append(Path(folder))
            for path in (Path(folder, name) for name in names):
                if path.is_file() and not path.is_symlink():
                    status = path.stat()
                    files[status.st_dev, status.st_ino] = path
        with ThreadPoolExecutor(_SYNCERS, thread_name_prefix="sync") as pool:
            list(pool.map(sync, [*files.values(), *folders]))
    else:
        sync(staged)
    staged.rename(place)
    sync(place.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
