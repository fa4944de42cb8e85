"""The images of frames, decoded ahead and handed out in chunks; one that cannot be read any more is left out."""

from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from al_dagster.core.errors import UnreadableFileError
from al_dagster.core.progress import report
from al_dagster.media.loader import ImageLoader
from al_dagster.vision.protocols import Image

logger = structlog.get_logger(__name__)

FrameImage = tuple[dict[str, Any], Image]


def frame_images(
    step: str, frames: Sequence[dict[str, Any]], images: ImageLoader, chunk: int
) -> Iterator[list[FrameImage]]:
    """Frames with their images, at most ``chunk`` at a time, reporting progress after each chunk.

    Args:
        step: the name that progress is reported under.
        frames: rows of ``core.schemas.FRAMES``.
        images: the loader, which decodes ahead of what is asked for.
        chunk: the most images in one list.
    """
    loaded = images.outcomes([(frame["file_path"], frame["sha256"]) for frame in frames])
    pending: list[FrameImage] = []
    for done, (frame, image) in enumerate(zip(frames, loaded, strict=True), start=1):
        if isinstance(image, UnreadableFileError):
            logger.warning("a file can no longer be read", file_path=frame["file_path"], reason=str(image))
        else:
            pending.append((frame, image))
        if pending and (len(pending) == chunk or done == len(frames)):
            yield pending
            pending = []
            report(step, done, len(frames))
