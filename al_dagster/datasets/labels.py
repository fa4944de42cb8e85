"""Boxes and polygons of an image as exports write them: cut to the image, in the order of the objects."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.geometry import clip_xyxy, xywh_to_xyxy
from al_dagster.datasets.frozen import DatasetImage, DatasetObject

_MIN_POINTS = 3


def boxes_xyxy(image: DatasetImage) -> NDArray[np.float64]:
    """The boxes of an image's objects: (n, 4), x1, y1, x2, y2 in pixels inside the image."""
    return clip_xyxy(xywh_to_xyxy(np.array([item.bbox for item in image.objects])), image.width, image.height)


def rings(item: DatasetObject, width: int, height: int) -> list[NDArray[np.float64]]:
    """The outlines of an object's mask, (k, 2) each, x, y in pixels inside the image; none if it has no mask."""
    outlines = [np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in item.polygon]
    return [np.clip(points, 0, [width, height]) for points in outlines if len(points) >= _MIN_POINTS]


def box_outline(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners of a box x1, y1, x2, y2: (4, 2), x, y."""
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def one_outline(outlines: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Several outlines as one, joined by bridges without width at their nearest corners.

    Args:
        outlines: at least one, (k, 2) each.

    Returns:
        (m, 2), with no corner that the outlines do not have.
    """
    joined = outlines[0]
    for ring in outlines[1:]:
        gaps = ((joined[:, None, :] - ring[None, :, :]) ** 2).sum(axis=2)
        here, there = np.unravel_index(int(gaps.argmin()), gaps.shape)
        around = np.concatenate([ring[there:], ring[: there + 1]])
        joined = np.concatenate([joined[: here + 1], around, joined[here:]])
    return joined
