"""The picture of one object, as an embedder sees it."""

import cv2
import numpy as np
from numpy.typing import NDArray

from al_dagster.vision.protocols import Image, Mask

NEUTRAL = 127
"""Grey level of everything in a crop that is not the object."""

PADDING = 0.1
"""Width of the border around the box, as a share of its longer side."""


def crop_object(image: Image, box_xyxy: NDArray[np.floating], mask: Mask | None = None) -> Image:
    """Cut one object out of an image.

    The crop is a square around the box with a border of 10 % of its longer side; what lies outside the image is
    neutral grey. With a mask, the box is that of the mask's pixels and everything outside the mask is neutral grey, so
    that the crop shows the object whatever it lay on. Object pixels that are exactly that grey are changed by one
    level, which lets an embedder tell the two apart.

    Args:
        image: (height, width, 3), uint8.
        box_xyxy: x1, y1, x2, y2 in pixels.
        mask: the object's pixels, or None.

    Returns:
        (side, side, 3), uint8, side at least 1.
    """
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    if mask is not None and mask.pixels.any():
        columns, rows = np.flatnonzero(mask.pixels.any(axis=0)), np.flatnonzero(mask.pixels.any(axis=1))
        x1, x2 = mask.x + float(columns[0]), mask.x + float(columns[-1]) + 1
        y1, y2 = mask.y + float(rows[0]), mask.y + float(rows[-1]) + 1
    side = max(1, round(max(x2 - x1, y2 - y1) * (1 + 2 * PADDING)))
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    crop = np.full((side, side, 3), NEUTRAL, dtype=np.uint8)
    if mask is None:
        _paste(crop, image, -left, -top, None)
    else:
        height, width = mask.pixels.shape
        pixels = image[mask.y : mask.y + height, mask.x : mask.x + width].copy()
        pixels[cv2.inRange(pixels, (NEUTRAL,) * 3, (NEUTRAL,) * 3).view(np.bool_), 2] = NEUTRAL + 1
        _paste(crop, pixels, mask.x - left, mask.y - top, mask.pixels)
    return crop


def silhouette(crop: Image) -> NDArray[np.bool_]:
    """The object's pixels of a crop made with a mask; all of them in a crop made without: (side, side), bool."""
    inside = (crop != NEUTRAL).any(axis=2)
    return inside if inside.any() else np.ones_like(inside)


def _paste(canvas: Image, picture: Image, x: int, y: int, inside: NDArray[np.bool_] | None) -> None:
    """Put a picture's top-left corner at x, y of a canvas, cutting what falls outside."""
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + picture.shape[1], canvas.shape[1]), min(y + picture.shape[0], canvas.shape[0])
    if left >= right or top >= bottom:
        return
    source = (slice(top - y, bottom - y), slice(left - x, right - x))
    target = canvas[top:bottom, left:right]
    if inside is None:
        target[:] = picture[source]
    else:
        cv2.copyTo(picture[source], inside[source].view(np.uint8), target)
