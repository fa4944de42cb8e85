"""Masks as text: COCO's compressed run lengths over the whole image, column by column."""

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_masks


def encode(pixels: NDArray[np.bool_], x: int, y: int, width: int, height: int) -> str:
    """The run lengths of a mask that is given as a part of its image.

    The whole image is never in memory, and the text is the one that every COCO tool makes of the mask.

    Args:
        pixels: (h, w), bool.
        x: column of the part's left edge in the image, pixels.
        y: row of the part's top edge in the image, pixels.
        width: of the image in pixels.
        height: of the image in pixels.

    Raises:
        ValueError: the part does not lie inside the image.
    """
    part_height, part_width = pixels.shape
    if x < 0 or y < 0 or x + part_width > width or y + part_height > height:
        raise ValueError(
            f"a {part_width}×{part_height} mask at {(x, y)} does not lie inside a {width}×{height} image"
        )
    columns = np.zeros((part_width, part_height + 2), dtype=np.int8)
    columns[:, 1:-1] = pixels.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    edges = (column + x) * height + row + y
    # A run that ends with its column meets the run that begins the next one.
    meets = np.flatnonzero(edges[1:] == edges[:-1])
    edges = np.delete(edges, np.concatenate([meets, meets + 1]))
    counts = np.diff(edges, prepend=0, append=width * height)
    counts = counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts
    encoded = coco_masks.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return str(encoded["counts"], "ascii")


def decode(counts: str, width: int, height: int) -> NDArray[np.bool_]:
    """The mask of run lengths: (height, width), bool.

    Args:
        counts: what ``encode`` gave.
        width: of the image in pixels.
        height: of the image in pixels.

    Raises:
        ValueError: they are not run lengths of an image of this size.
    """
    full = np.zeros((height, width), dtype=np.bool_)
    pixels, x, y = decode_part(counts, width, height)
    full[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return full


def decode_part(counts: str, width: int, height: int) -> tuple[NDArray[np.bool_], int, int]:
    """The smallest part of the image that holds the whole mask, without the rest of the image.

    Args:
        counts: what ``encode`` gave.
        width: of the image in pixels.
        height: of the image in pixels.

    Returns:
        (h, w), bool, and the column and row of its top-left corner in the image; (0, 0) at (0, 0) for an empty mask.

    Raises:
        ValueError: they are not run lengths of an image of this size.
    """
    edges = np.cumsum(_lengths(counts))
    if edges[-1] != width * height:
        raise ValueError(f"run lengths of {edges[-1]} pixels are no mask of a {width}×{height} image")
    starts, ends = edges[:-1:2], edges[1::2]
    filled = ends > starts
    starts, ends = starts[filled], ends[filled]
    if not len(starts):
        return np.zeros((0, 0), dtype=np.bool_), 0, 0
    left, right = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    borders = np.stack([starts, ends], axis=1).ravel() - left * height
    lengths = np.diff(borders, prepend=0, append=(right - left) * height)
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(right - left, height)
    rows = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return columns[:, top:bottom].T, left, top


def area(counts: str) -> int:
    """The number of pixels of the mask.

    Raises:
        ValueError: they are not run lengths.
    """
    return int(_lengths(counts)[1::2].sum())


def _lengths(counts: str) -> NDArray[np.int64]:
    """The lengths of the runs outside and inside the mask in turn; that of the first, outside, may be 0.

    A number is groups of 5 bits, the lowest first, in characters from "0" on; bit 5 says that more follow. From the
    fourth on, a number is the difference to the one before the last.
    """
    digits = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - ord("0")
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or digits[-1] & 32:
        raise ValueError(f"{counts[:40]!r} are not run lengths in COCO's compressed form")
    last = np.flatnonzero((digits & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    places = np.arange(len(digits)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((digits & 31) << (5 * np.minimum(places, 11)), first)
    numbers -= np.where(digits[last] & 16, 1 << (5 * np.minimum(places[last] + 1, 12)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    if numbers.min() < 0:
        raise ValueError(f"{counts[:40]!r} are run lengths below 0")
    return numbers
