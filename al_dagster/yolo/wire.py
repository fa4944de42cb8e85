"""How images travel to the process: a line of JSON with their sizes, then their pixels."""

import json
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Request = tuple[list[NDArray[np.uint8]], dict[str, Any]]
"""Images, (height, width, 3) RGB each, and what to find in them."""


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
    """The next images and arguments that were sent; None where the stream ends, be it within an image."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    header = json.loads(line)
    images = [np.empty((height, width, 3), np.uint8) for height, width in header["sizes"]]
    for image in images:
        if stream.readinto(image.data.cast("B")) < image.nbytes:  # type: ignore[attr-defined]
            return None
    return images, header["arguments"]
