"""Pictures that the Dagster UI shows: files in ``AL_HOME/pictures``, which the webserver of ``al ui`` serves.

Dagster stores metadata twice, in the log of the run and in that of the asset, for ever; a picture within it would make
most of the event log.
"""

import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path

import dagster as dg

ADDRESS = "/pictures"
NAMES = re.compile(r"[0-9a-f]{2}/[\w.-]+\.(jpeg|png)")


def shown_picture(folder: Path, made_from: str, kind: str, draw: Callable[[], bytes | None]) -> dg.MetadataValue | None:
    """A picture as metadata; drawn only if the one that was made of the same things is not there any more.

    Args:
        folder: where pictures are kept.
        made_from: hex characters that change with whatever the picture shows.
        kind: ``jpeg`` or ``png``.
        draw: makes the content of the file; None where there is nothing to show.
    """
    name = f"{made_from[:2]}/{made_from}.{kind}"
    path = folder / name
    if not path.exists():
        content = draw()
        if content is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        staged.write_bytes(content)
        os.replace(staged, path)  # noqa: PTH105
    return dg.MetadataValue.md(f"![]({ADDRESS}/{name})")
