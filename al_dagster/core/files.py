"""Opening files that other people made: regular ones below a size, and nothing else."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from al_dagster.core.errors import UserError

MAX_TEXT_BYTES = 64 * 1024 * 1024
"""Of a settings file or a table."""

TROUBLESOME = frozenset("'?")
"""Characters of a path that libraries trip over."""

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


def plain_path(folder: Path) -> Path:
    """The absolute path of a folder, by a link where its own has characters that libraries trip over.

    Dagster and MLflow put the path of their databases into URLs unescaped, where a question mark ends it, and
    ultralytics drops apostrophes from the folder that it writes to. The link lies in a folder of this user's among the
    temporary files, is named after what it leads to, and is made again where it is gone.

    Args:
        folder: is made where a link to it is needed.

    Raises:
        UserError: it cannot be made, or the folder of links belongs to somebody else.
    """
    path = folder.absolute()
    if not TROUBLESOME.intersection(str(path)):
        return path
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made: {error.strerror}; set AL_HOME to a folder that can") from None
    links = Path(tempfile.gettempdir()) / f"al_dagster-{os.getuid()}"
    links.mkdir(mode=0o700, exist_ok=True)
    if links.is_symlink() or links.stat().st_uid != os.getuid():
        raise UserError(f"{links} belongs to somebody else: remove it, or give AL_HOME a name without ' and ?")
    link = links / hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    if not link.is_symlink() or link.readlink() != path:
        staged = link.with_name(f".{link.name}.{os.getpid()}")
        staged.unlink(missing_ok=True)
        staged.symlink_to(path)
        staged.replace(link)
    return link


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
