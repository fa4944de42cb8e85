"""What lies in a folder of photos: which files are there, written to the end, and whose turn has come."""

import os
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import structlog

from al_dagster.core.errors import UserError

log = structlog.get_logger(__name__)

PROJECT_FILES = ("project.yaml", "project.yml")
SUPPORT_FOLDER = "support"

_PARTIAL_SUFFIXES = (".part", ".partial", ".crdownload", ".tmp")


@dataclass(frozen=True, order=True)
class FileStat:
    """A file as it stood when the folder was scanned.

    Args:
        path: absolute, links not resolved.
        size_bytes: its size; of the link itself where the link leads out of the folder or nowhere.
        mtime_ns: when it was last changed, nanoseconds since 1970.
    """

    path: str
    size_bytes: int
    mtime_ns: int


def scan_folder(
    folder: Path,
    *,
    settle_seconds: float,
    now: float | None = None,
    skip: Collection[Path] = (),
    links_out: bool = False,
) -> list[FileStat]:
    """The files of a folder and its subfolders that are ready to be taken, sorted by path.

    Left out are hidden files and folders; at the top ``project.yaml`` and the ``support`` folder; files that a
    download gives a passing name (such as ``.part``); files that vanish during the scan; and files not yet settled,
    whose turn comes at a later scan. A link to a folder is not followed. A link to a file that leads out of the
    folder, or nowhere, is returned without its target being looked at: inspection quarantines it with the reason.
    A name that is not UTF-8 can be stored neither in the registry nor in the lake: such files are left out, and one
    warning for the scan names them.

    Args:
        folder: the project's folder.
        settle_seconds: how long a file must have stood unchanged.
        now: seconds since 1970; the present by default.
        skip: more folders and files to leave out, such as the project's support folder where it has another name.
        links_out: whether a link to a file may lead out of the folder, as any link inside it; it then counts as its
            target.
    """
    top = folder.absolute()
    inside = os.path.realpath(top)
    moment = time.time() if now is None else now
    skipped = {top / SUPPORT_FOLDER, *(path.absolute() for path in skip)}
    found: list[FileStat] = []
    unnameable: list[str] = []
    for here, folders, names in os.walk(top, onerror=_warn_unreadable):
        at = Path(here)
        folders[:] = [name for name in folders if not name.startswith(".") and at / name not in skipped]
        for name in names:
            if (
                name.startswith(".")
                or name.lower().endswith(_PARTIAL_SUFFIXES)
                or (at == top and name in PROJECT_FILES)
                or at / name in skipped
            ):
                continue
            path = str(at / name)
            status = _status(path, None if links_out else inside)
            if status is None or not is_settled(status, settle_seconds=settle_seconds, now=moment):
                continue
            if _is_utf8(path):
                found.append(FileStat(path, status.st_size, status.st_mtime_ns))
            else:
                unnameable.append(os.fsencode(path).decode("utf-8", "backslashreplace"))
    if unnameable:
        log.warning("files left out: their names are not UTF-8", count=len(unnameable), first=sorted(unnameable)[:5])
    return sorted(found)


def is_settled(status: os.stat_result, *, settle_seconds: float, now: float) -> bool:
    """Whether a file has stood unchanged for so many seconds.

    A time of change that lies in the future (another machine's clock, a camera's) says nothing; the time at which
    this file system last touched the file's entry then counts instead.

    Args:
        status: of the file.
        settle_seconds: 0 takes every file.
        now: seconds since 1970.
    """
    changed = status.st_mtime if status.st_mtime <= now else min(status.st_mtime, status.st_ctime)
    return settle_seconds <= 0 or now - changed >= settle_seconds


def list_projects(inbox: Path) -> list[Path]:
    """The project folders of an inbox, sorted, whether or not they hold a ``project.yaml``; links are not followed.

    Raises:
        UserError: the inbox is no folder, or may not be read; one that does not exist yet is empty.
    """
    try:
        entries = sorted(inbox.absolute().iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{inbox}: cannot be read: {error.strerror}; AL_INBOX must be a folder") from None
    return [path for path in entries if not path.name.startswith(".") and path.is_dir() and not path.is_symlink()]


def project_file(folder: Path) -> Path | None:
    """The ``project.yaml`` (or ``.yml``) of a project folder, or None."""
    return next((folder / name for name in PROJECT_FILES if (folder / name).is_file()), None)


def leaves(path: str, inside: str) -> bool:
    """Whether a path leads out of a folder through links.

    Args:
        path: any path.
        inside: the folder, its own links resolved.
    """
    real = os.path.realpath(path)
    return os.path.commonpath([real, inside]) != inside


def _status(path: str, inside: str | None) -> os.stat_result | None:
    """The status of what would be read: a link's own if it leads nowhere or out of ``inside``; None of no file."""
    try:
        own = os.lstat(path)
        if not stat.S_ISLNK(own.st_mode):
            return own if stat.S_ISREG(own.st_mode) else None
        if inside is not None and leaves(path, inside):
            return own
    except OSError:
        return None
    try:
        target = Path(path).stat()
    except OSError:
        return own
    return target if stat.S_ISREG(target.st_mode) else None


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _warn_unreadable(error: OSError) -> None:
    log.warning("folder left out: it cannot be read", folder=error.filename, reason=error.strerror)
