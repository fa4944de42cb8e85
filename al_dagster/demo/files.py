"""Writes the files of the demonstration so that running it again changes nothing."""

import os
import uuid
from pathlib import Path


def write_if_changed(path: Path, content: bytes) -> bool:
    """Make a file hold this content; a file that does already is left untouched, with its modification time.

    The content is written beside its place, to a hidden name, and renamed into it. Missing folders are made.

    Args:
        path: the file.
        content: all of it.

    Returns:
        Whether the file was written.
    """
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    return True
