"""The images of frames, decoded ahead and handed out in chunks; one that cannot be read any more is left out."""

from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from al_dagster.core.errors import UnreadableFileError
from al_dagster.core.progress import report
from al_dagster.media.loader import ImageLoader
from al_dagster.media.reading import ImageFile
from al_dagster.vision.protocols import Image

logger = structlog.get_logger(__name__)

CHUNK_PIXELS = 64 * 10**6
"""Pixels of the images of a chunk; memory holds three chunks and what is decoded ahead, 3 bytes a pixel."""

FrameImage = tuple[dict[str, Any], Image]


def image_file(frame: dict[str, Any]) -> ImageFile:
    """The page of a file that a row of ``core.schemas.FRAMES`` stands for."""
    return ImageFile(
        frame["file_path"],
        frame["sha256"],
        frame["size_bytes"],
        frame["mtime_ns"],
        page=frame["frame_idx"],
        pixels=frame["width"] * frame["height"],
    )


def frame_images(
    step: str, frames: Sequence[dict[str, Any]], images: ImageLoader, chunk: int, failures: dict[str, str]
) -> Iterator[list[FrameImage]]:
    """Frames with their images, at most ``chunk`` at a time, fewer where 64 megapixels are reached.

    Progress is reported after each chunk.

    Args:
        step: the name that progress is reported under.
        frames: rows of ``core.schemas.FRAMES``.
        images: the loader, which decodes ahead of what is asked for.
        chunk: the most images in one list.
        failures: is given the reason of each frame that cannot be read, or whose file has changed, by its id.
    """
    files = [image_file(frame) for frame in frames]
    loaded = images.outcomes(files, look_ahead=max(2, chunk), pixels_ahead=CHUNK_PIXELS)
    pending: list[FrameImage] = []
    pixels = 0
    for done, (frame, image) in enumerate(zip(frames, loaded, strict=True), start=1):
        if isinstance(image, UnreadableFileError):
            failures[frame["frame_id"]] = str(image)
            logger.warning("a file can no longer be read", file_path=frame["file_path"], reason=str(image))
        else:
            pending.append((frame, image))
            pixels += image.shape[0] * image.shape[1]
        if len(pending) == chunk or pixels >= CHUNK_PIXELS or done == len(frames):
            if pending:
                yield pending
            pending, pixels = [], 0
            report(step, done, len(frames))
