"""Cleaning of masks: specks off, small holes filled."""

import cv2
import numpy as np
from numpy.typing import NDArray

SPECK_SHARE = 0.05
"""A part (connected at sides or corners) with less than this share of the mask's area is a speck."""

HOLE_SHARE = 0.02
"""A hole (enclosed background, connected at sides) with at most this share of the mask's area is filled."""

PARAMETERS = {"speck": SPECK_SHARE, "hole": HOLE_SHARE}


def clean_mask(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its specks and small holes.

    The largest part always stays, and so does every other that is no speck: a thing behind a post is in two parts.
    What the mask leaves open towards the edge of its crop is no hole. Cleaning goes on until nothing changes, since
    both areas are relative to the mask's; so cleaning a clean mask changes nothing.

    Args:
        pixels: (h, w), bool.

    Returns:
        A new array (h, w), bool, inside the box around the given pixels; empty only if they are.
    """
    cleaned = np.array(pixels, dtype=np.uint8, order="C")
    if not cleaned.any():
        return cleaned.astype(bool)
    x, y, width, height = cv2.boundingRect(cleaned)
    inner = cleaned[y : y + height, x : x + width]
    if len(cv2.findContours(inner, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]) == 1:
        return cleaned.astype(bool)  # most masks are one part without a hole, and this is the cheapest way to see it
    while _drop_specks(inner) or _fill_holes(inner):
        pass
    return cleaned.astype(bool)


def _drop_specks(mask: NDArray[np.uint8]) -> bool:
    """Take the specks off, in place; returns whether there were any."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    areas[0] = 0
    speck = areas < SPECK_SHARE * areas.sum()
    speck[[0, int(areas.argmax())]] = False
    if count <= 2 or not speck.any():
        return False
    mask[speck[labels]] = 0
    return True


def _fill_holes(mask: NDArray[np.uint8]) -> bool:
    """Fill the small holes, in place; returns whether there were any."""
    height, width = mask.shape
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    enclosed = (left > 0) & (top > 0) & (right < width) & (bottom < height)
    hole = enclosed & (stats[:, cv2.CC_STAT_AREA] <= HOLE_SHARE * mask.sum(dtype=np.int64))
    hole[0] = False
    if not hole.any():
        return False
    mask[hole[labels]] = 1
    return True
