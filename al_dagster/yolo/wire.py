"""How images travel to the process: a line of JSON with their sizes, then their pixels."""

import json
import math
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAINED_BYTES = 65536


class Request(NamedTuple):
    """Images, and what to find in them.

    Args:
        images: (height, width, 3), uint8, RGB, each; None where they needed more memory than there was.
        arguments: those of the prediction.
    """

    images: list[NDArray[np.uint8]] | None
    arguments: dict[str, Any]


def write_request(stream: IO[bytes], images: Sequence[NDArray[np.uint8]], arguments: dict[str, Any]) -> None:
    """Send images.

    Args:
        stream: the process's standard input.
        images: (height, width, 3), uint8, RGB, each.
        arguments: JSON-serialisable arguments of the prediction.

    Raises:
        ValueError: an array is not such an image.
    """
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an image must be uint8 of shape (height, width, 3), got {image.dtype} {image.shape}")
    header = {"sizes": [image.shape[:2] for image in images], "arguments": arguments}
    stream.write(json.dumps(header).encode() + b"\n")
    for image in images:
        stream.write(np.ascontiguousarray(image).data.cast("B"))
    stream.flush()


def read_request(stream: IO[bytes]) -> Request | None:
    """The next request that was sent, taken to its end; None where the stream ends, be it within an image."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    header = json.loads(line)
    sizes = [(height, width, 3) for height, width in header["sizes"]]
    try:
        images: list[NDArray[np.uint8]] | None = [np.empty(size, np.uint8) for size in sizes]
    except MemoryError:
        images = None
    if images is None:
        whole = _drain(stream, sum(map(math.prod, sizes)))
    else:
        whole = all(stream.readinto(image.data.cast("B")) == image.nbytes for image in images)  # type: ignore[attr-defined]
    return Request(images, header["arguments"]) if whole else None


def _drain(stream: IO[bytes], size: int) -> bool:
    """Read so many bytes and keep none; returns whether there were as many."""
    while size > 0 and (chunk := stream.read(min(size, DRAINED_BYTES))):
        size -= len(chunk)
    return size == 0
