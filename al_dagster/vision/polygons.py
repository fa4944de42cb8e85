"""Masks as polygons."""

import cv2
import numpy as np

from al_dagster.vision.protocols import Mask

TOLERANCE = 1.0
"""A ring stays this close to the mask's outline, in pixels."""


def mask_polygons(mask: Mask, tolerance: float = TOLERANCE) -> list[list[float]]:
    """The outer outlines of a mask as rings.

    A ring runs through the centres of the outline's pixels, so that its corners lie inside the image. A part too small
    to enclose an area is given as the four corners of its pixels' box.

    Args:
        mask: the mask of one object.
        tolerance: distance in pixels that a ring may leave the outline by to have fewer corners.

    Returns:
        One ring for each connected part, largest first: x, y, x, y, … in pixels of the image. Holes are not kept.
    """
    contours, _ = cv2.findContours(
        mask.pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(mask.x, mask.y)
    )
    rings = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True):
        ring = cv2.approxPolyDP(contour, tolerance, closed=True).reshape(-1, 2)
        if len(ring) < 3:
            x, y, width, height = cv2.boundingRect(contour)
            ring = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
        rings.append(ring.astype(np.float64).reshape(-1).tolist())
    return rings
