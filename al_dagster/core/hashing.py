"""SHA-256 of files."""

import hashlib
from collections.abc import Callable
from pathlib import Path

CHUNK_BYTES = 8 * 2**20


def file_sha256(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal characters.

    Args:
        path: the file.
        on_bytes: is called with the number of bytes read since it was last called, never more than 8 MiB.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        if on_bytes is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()
