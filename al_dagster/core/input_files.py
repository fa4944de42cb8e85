"""Opening files that other people made: regular ones below a size, and nothing else."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from al_dagster.core.errors import UserError

MAX_TEXT_BYTES = 64 * 1024 * 1024
"""Of a settings file or a table."""

SYSTEM_FOLDERS = frozenset(
    {
        "@eaDir",
        "@Recycle",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
        "__MACOSX",
    }
)
"""Folders that storage systems and archivers put among people's files."""


@contextmanager
def open_regular(path: Path | str, *, max_bytes: int) -> Iterator[BufferedReader]:
    """Open a regular file for reading, or the one that a link leads to.

    A named pipe would be waited for, and a device may never end: neither is opened.

    Args:
        path: the file.
        max_bytes: a larger file is refused.

    Raises:
        UserError: it is not a regular file, or too large; without the path.
        OSError: it cannot be opened.
    """
    # To open a named pipe without O_NONBLOCK would wait for somebody to write to it.
    if Path(path).is_dir():
        raise UserError("is not a regular file")
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UserError("is not a regular file")
        if status.st_size > max_bytes:
            raise UserError(f"has {status.st_size / 1e6:,.0f} MB; the limit is {max_bytes / 1e6:,.0f}")
        yield file


def read_text_file(path: Path | str, *, encoding: str = "utf-8", what: str = "") -> str:
    """The text of a settings file or a table.

    Args:
        path: the file.
        encoding: of the text.
        what: the file is, where its name does not say so.

    Raises:
        UserError: it is missing, not a regular file, too large, or no text; names the file.
    """
    try:
        with open_regular(path, max_bytes=MAX_TEXT_BYTES) as file:
            return file.read().decode(encoding)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {what and what + ' '}cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
