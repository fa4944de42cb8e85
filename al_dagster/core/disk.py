"""A full disk: how the system and the libraries say that there is one, and one sentence for it."""

import errno
import re
import shutil
import sqlite3
from pathlib import Path

from al_dagster.core.errors import UserError, causes

MIN_FREE_BYTES = 16 * 2**20
"""With less than this nothing is begun: SQLite and Chroma need room to undo what they cannot finish."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when the disk is full, the user's share of it is used up, or it takes no file so large."""

SIGNS = re.compile(
    r"no space left on device|disk quota exceeded|file too large|database or disk is full|disk is full", re.IGNORECASE
)
"""What the system, SQLite, Arrow, Chroma and Dagster's storages say in words alone."""

UNCLEAR_SIGNS = re.compile(r"disk i/o error|error in compaction", re.IGNORECASE)
"""What SQLite and Chroma say of a full disk too, but not only then."""


class DiskFullError(UserError):
    """Nothing more can be written."""


def disk_full(folder: Path) -> DiskFullError:
    """The error that says so of the disk of a folder, whether the folder is there or not."""
    return DiskFullError(
        f"the disk is full: that of {folder} has {free_bytes(folder) / 1e6:.1f} MB free, or your share of it is used "
        "up; make room and run the command again"
    )


def require_space(folder: Path) -> None:
    """Check that there is room to begin to write.

    Raises:
        DiskFullError: there is not.
    """
    if free_bytes(folder) < MIN_FREE_BYTES:
        raise disk_full(folder)


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, whether the folder is there or not."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Whether an error, or one that it came from, says that the disk is full.

    Args:
        error: any error.
        folder: where was written; where an error may mean a full disk, the room there decides.
    """
    return any(_says_full(one) or (_may_say_full(one) and free_bytes(folder) < MIN_FREE_BYTES) for one in causes(error))


def _says_full(error: BaseException) -> bool:
    if isinstance(error, UserError) and not isinstance(error, DiskFullError):
        return False  # It has its own advice.
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in NO_ROOM
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or SIGNS.search(str(error)) is not None


def _may_say_full(error: BaseException) -> bool:
    return UNCLEAR_SIGNS.search(str(error)) is not None
