"""Boxes in pixels: conversions and clipping. ``xywh`` is top-left corner and size, ``xyxy`` two corners."""

import numpy as np
from numpy.typing import NDArray

MIN_SIDE = 1.0
"""A box whose part inside the image is narrower or lower than this, in pixels, shows nothing that can be learned."""


def xywh_to_xyxy(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Corners of boxes.

    Args:
        boxes: (n, 4), x, y, w, h in pixels.
    """
    boxes = _as_boxes(boxes)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Top-left corners and sizes of boxes.

    Args:
        boxes: (n, 4), x1, y1, x2, y2 in pixels.
    """
    boxes = _as_boxes(boxes)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def clip_xyxy(boxes: NDArray[np.floating], width: int, height: int) -> NDArray[np.float64]:
    """Boxes cut to an image of this width and height in pixels; a box outside it becomes empty."""
    return np.clip(_as_boxes(boxes), 0, np.array([width, height, width, height], dtype=np.float64))


def iou_matrix(first: NDArray[np.floating], second: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes.

    Args:
        first: (n, 4), x1, y1, x2, y2 in pixels.
        second: (m, 4), the same.

    Returns:
        (n, m) in 0–1; empty boxes overlap nothing.
    """
    first, second = _as_boxes(first), _as_boxes(second)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=2)
    union = _areas(first)[:, None] + _areas(second)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)


def _as_boxes(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) if np.size(boxes) == 0 else np.asarray(boxes, np.float64)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes must have shape (n, 4), got {array.shape}")
    return array
