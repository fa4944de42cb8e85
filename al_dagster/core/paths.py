"""Paths that every library can take."""

import hashlib
import os
import tempfile
from pathlib import Path

from al_dagster.core.errors import UserError

TROUBLESOME = frozenset("'?")
"""Characters of a path that libraries trip over."""


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
