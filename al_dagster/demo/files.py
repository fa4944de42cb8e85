"""Writes the files of the demonstration so that running it again changes nothing."""

from pathlib import Path

from al_dagster.core.files import write_whole


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
    write_whole(path, content)
    return True
