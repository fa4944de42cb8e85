"""SQLite files that are damaged: told by a look at their first bytes, and by what SQLite says of them."""

import sqlite3
from pathlib import Path

from al_dagster.core.errors import causes

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def damage_of(database: Path) -> str | None:
    """What is wrong with the file of a database at first sight; None if nothing is, or if there is no such file."""
    try:
        size = database.stat().st_size
        with database.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return None
    if not size:
        return "it is empty"
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return "it is no SQLite database"
    page_size = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    # The number of pages holds if it was written with the last change.
    if header[24:28] == header[92:96] and pages * (65536 if page_size == 1 else page_size) > size:
        return "it is cut off"
    return None


def is_damaged(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that a database is damaged or none."""
    return any(getattr(one, "sqlite_errorcode", 0) & 0xFF in _DAMAGED for one in causes(error))
