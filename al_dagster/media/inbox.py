"""What lies in a folder of photos: which files are there, written to the end, and whose turn has come."""

import os
import stat
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from al_dagster.core.errors import UserError
from al_dagster.core.input_files import SYSTEM_FOLDERS

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
    within: Path | None = None,
    report: Callable[[str], None] = lambda problem: None,
) -> list[FileStat]:
    """The files of a folder and its subfolders that are ready to be taken, sorted by path.

    Left out are hidden files and folders; at the top ``project.yaml`` and the ``support`` folder; files that a
    download gives a passing name (such as ``.part``); files that vanish during the scan; and files not yet settled,
    whose turn comes at a later scan. Links are followed, to files and to folders, but for those to a folder inside,
    which is scanned where it is. A link to a file that leads out of ``within``, or nowhere, is returned without its
    target being looked at: inspection quarantines it with the reason. A name that is not UTF-8 can be stored neither
    in the registry nor in the lake.

    Args:
        folder: the project's folder.
        settle_seconds: how long a file must have stood unchanged.
        now: seconds since 1970; the present by default.
        skip: more folders and files to leave out, such as the project's support folder where it has another name.
        within: a folder that links must not lead out of; None: they may lead anywhere.
        report: is called with a sentence for each thing that is left out and might be missed.
    """
    top = absolute(folder)
    inside = os.path.realpath(top)
    bounds = None if within is None else os.path.realpath(within)
    followed = {inside}
    moment = time.time() if now is None else now
    skipped = {top / SUPPORT_FOLDER, *(path.absolute() for path in skip)}
    found: list[FileStat] = []
    unnameable: list[str] = []

    def enters(path: Path) -> bool:
        if path.name.startswith(".") or path.name in SYSTEM_FOLDERS or path in skipped:
            return False
        if not path.is_symlink():
            return True
        real = os.path.realpath(path)
        if bounds is not None and leaves(str(path), bounds):
            report(f"{path}: links to a folder outside {within}; its files are left out")
            return False
        if real in followed or not leaves(str(path), inside):
            return False
        followed.add(real)
        return True

    for here, folders, names in os.walk(top, onerror=lambda error: report(_unreadable(error)), followlinks=True):
        at = Path(here)
        folders[:] = [name for name in folders if enters(at / name)]
        for name in names:
            if (
                name.startswith(".")
                or name.lower().endswith(_PARTIAL_SUFFIXES)
                or (at == top and name in PROJECT_FILES)
                or at / name in skipped
            ):
                continue
            path = str(at / name)
            status = _status(path, bounds)
            if status is None or not is_settled(status, settle_seconds=settle_seconds, now=moment):
                continue
            if _is_utf8(path):
                found.append(FileStat(path, status.st_size, status.st_mtime_ns))
            else:
                unnameable.append(os.fsencode(path).decode("utf-8", "backslashreplace"))
    if unnameable:
        count, first = len(unnameable), sorted(unnameable)[0]
        report(f"{top}: files left out since their names are not UTF-8: {count}, such as {first}; rename them")
    return sorted(found)


def absolute(path: Path) -> Path:
    """The absolute path with links kept but for those before a ``..``: one spelling for one place."""
    parts = path.absolute().parts
    if ".." not in parts:
        return path.absolute()
    last = len(parts) - parts[::-1].index("..")
    return Path(*parts[:last]).resolve().joinpath(*parts[last:])


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
    return [
        path
        for path in entries
        if not path.name.startswith(".") and path.name not in SYSTEM_FOLDERS and path.is_dir() and not path.is_symlink()
    ]


def loose_files(inbox: Path) -> list[Path]:
    """Files of an inbox that lie in no project's folder, sorted; none where it cannot be read."""
    try:
        entries = sorted(absolute(inbox).iterdir())
    except OSError:
        return []
    return [path for path in entries if path.is_file() and not path.name.startswith(".")]


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


def _unreadable(error: OSError) -> str:
    return f"{error.filename}: the folder is left out, since it cannot be read: {error.strerror}"
