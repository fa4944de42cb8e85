"""Room on the disk for models: asked for before one is fetched, and said in one sentence where it runs out."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from al_dagster.core.disk import NO_ROOM
from al_dagster.core.errors import UserError
from al_dagster.vision.weights import MB


def check_room(folder: Path, needed: int) -> None:
    """Check that the disk of a folder has so many bytes free.

    Raises:
        UserError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free // MB} MB free and the model needs {needed // MB} MB; make room, or set AL_MODELS to "
            "a folder on a larger disk"
        )


@contextmanager
def room_told() -> Iterator[None]:
    """Say in one sentence that there is no room left on the disk.

    Raises:
        UserError: an error of the system inside said so.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f"the model cannot be written ({error.strerror}); make room, or set AL_MODELS to a folder on a larger disk"
        ) from None
