"""Cutting a region where it narrows."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

LEVEL_STEP = 0.5
_NEIGHBOURS = ((0, 1), (1, -1), (1, 0), (1, 1))


def split_touching(objects: NDArray[np.uint8], *necks: float) -> list[NDArray[np.int32]]:
    """Label the parts of a binary image, cutting where it narrows.

    The distance to the outline falls from a peak in the middle of each part to a pass between two neighbours. From
    the highest pass downwards, two parts become one if the pass is at least ``neck`` times as high as the lower of
    their peaks, and stay apart if not.

    Args:
        objects: (height, width), 0 or 1.
        necks: how high the passes must be, 0 for connected regions as they are.

    Returns:
        For each neck, (height, width), int32: 0 outside, 1, 2, … inside.
    """
    _, blobs = cv2.connectedComponents(objects, connectivity=8)
    results = [np.zeros(objects.shape, dtype=np.int32) for _ in necks]
    used = [0] * len(necks)
    for blob, window in enumerate(ndimage.find_objects(blobs), 1):
        inside = blobs[window] == blob
        padded = np.pad(inside.astype(np.uint8), 1)
        depth = np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), dtype=np.float32)
        basins = _basins(depth)
        heights = np.ceil(depth / LEVEL_STEP) * LEVEL_STEP
        peaks = ndimage.maximum(heights, basins, np.arange(1, basins.max() + 1))
        passes = _passes(basins, heights)
        for number, (neck, result) in enumerate(zip(necks, results, strict=True)):
            parts = _joined(peaks, passes, neck)
            result[window][inside] = parts[basins[1:-1, 1:-1][inside] - 1] + used[number]
            used[number] += int(parts.max())
    return results


def _basins(depth: NDArray[np.float32]) -> NDArray[np.int32]:
    """Number each pixel by the peak that the steepest way up from it leads to, from 1; 0 where the depth is 0.

    The outermost pixels must have depth 0.
    """
    height, width = depth.shape
    flat = depth.ravel()
    places = np.flatnonzero(flat)
    steps = np.array([row * width + column for row, column in _NEIGHBOURS])
    around = places[:, None] + np.concatenate([-steps[::-1], [0], steps])
    lengths = np.hypot(*np.array(_NEIGHBOURS).T)
    rise = (flat[around] - flat[places, None]) / np.concatenate([lengths[::-1], [1.0], lengths])
    # Of equal neighbours the last is taken, so that a plateau drains one way.
    steepest = around.shape[1] - 1 - np.argmax(rise[:, ::-1], axis=1)
    way = np.arange(flat.size)
    way[places] = around[np.arange(len(places)), steepest]
    while True:
        farther = way[way]
        if np.array_equal(farther, way):
            break
        way = farther
    basins = np.zeros(flat.size, dtype=np.int32)
    basins[places] = np.unique(way[places], return_inverse=True)[1] + 1
    return basins.reshape(height, width)


def _passes(basins: NDArray[np.int32], heights: NDArray[np.float32]) -> list[tuple[float, int, int]]:
    """The highest pass between each two basins that meet, highest first: height and both basins, from 0."""
    count = int(basins.max())
    pairs, levels = [], []
    height, width = basins.shape
    for down, right in _NEIGHBOURS:
        here = (slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        there = (slice(down, height), slice(max(0, right), width + min(0, right)))
        one, other = basins[here], basins[there]
        meet = (one != other) & (one > 0) & (other > 0)
        low, high = np.minimum(one[meet], other[meet]) - 1, np.maximum(one[meet], other[meet]) - 1
        pairs.append(low.astype(np.int64) * count + high)
        levels.append(np.minimum(heights[here][meet], heights[there][meet]))
    keys, position = np.unique(np.concatenate(pairs), return_inverse=True)
    best = np.zeros(len(keys))
    np.maximum.at(best, position, np.concatenate(levels))
    order = np.lexsort((keys, -best))
    return [(float(best[index]), int(keys[index]) // count, int(keys[index]) % count) for index in order]


def _joined(peaks: NDArray[np.float64], passes: list[tuple[float, int, int]], neck: float) -> NDArray[np.int32]:
    """The part that each basin belongs to, from 1, when basins are joined over passes that are high enough."""
    leader = list(range(len(peaks)))

    def lead(basin: int) -> int:
        while leader[basin] != basin:
            leader[basin] = leader[leader[basin]]
            basin = leader[basin]
        return basin

    for level, one, other in passes:
        first, second = lead(one), lead(other)
        if first != second and level >= neck * min(peaks[first], peaks[second]):
            lower, higher = sorted((first, second), key=lambda basin: (peaks[basin], -basin))
            leader[lower] = higher
    leaders = np.array([lead(basin) for basin in range(len(peaks))])
    return (np.unique(leaders, return_inverse=True)[1] + 1).astype(np.int32)
