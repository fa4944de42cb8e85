"""Whether two small pictures show one scene between which only the camera moved a little."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

SIDE = 32
"""Width and height of a picture, in cells."""

_EDGE = 4  # cells that the camera may move in each direction
_BLUR = 1.5  # cells; without it thumbnails hold more detail than a small movement can be measured by
_STEPS = 2
_RIDGE = 1e-2
_NOISE, _CLEAR = 1.0, 3.0  # grey levels after the blur: what noise leaves, and where there is surely more than noise
_MAX_UNEXPLAINED = 0.5
_MIN_TEXTURE, _EDGE_LEVELS = 0.55, 2.0  # share of a picture's cells, and grey levels by which they differ from the next
_MAX_REMAINING = 0.7
_MAX_STILL = 1.5

_Floats = NDArray[np.float32]


def is_textured(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """For each picture (n, 1024), whether most of it is not blank, so that it moves as a whole only with the camera."""
    slope_y, slope_x = np.gradient(_blurred(grey), axis=(1, 2))
    return _mostly_edges(np.hypot(slope_x, slope_y).reshape(len(grey), SIDE * SIDE))


def shifted_difference(first: _Floats, second: _Floats) -> _Floats:
    """For each pair of pictures (n, 1024), how much they differ after the best shift by up to four whole cells.

    Returns:
        (n,): the standard deviation of the difference in their middles, after a blur.
    """
    remaining: _Floats = _best_shift(_blurred(first), _blurred(second)[:, _EDGE:-_EDGE, _EDGE:-_EDGE])[2]
    return remaining


def only_the_camera_moved(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """For each pair of pictures (n, 1024), whether the second is the first but for a small movement of the camera.

    The movement is the best shift by whole cells and then, in two steps of Lucas and Kanade's method, the shift, zoom
    and rotation that explain most of the rest, together with a change of light. What they leave unexplained must be
    small in every cell: about the noise where the camera stands still, and a share of the edges where it moves. In a
    picture that is mostly blank a part that lies elsewhere would pass for a camera that moved, so there the answer is
    yes only where nothing at all changed.
    """
    before, after = _blurred(first), _blurred(second)
    change = (before - after).reshape(len(before), SIDE * SIDE)
    same: NDArray[np.bool_] = np.ptp(change, axis=1) <= 2 * _MAX_STILL
    after = after[:, _EDGE:-_EDGE, _EDGE:-_EDGE]
    down, right, remaining = _best_shift(before, after)
    contrast = after.reshape(len(after), -1).std(axis=1) if len(after) else remaining
    near = np.flatnonzero(~same & (remaining <= _MAX_REMAINING * contrast))
    same[near] = _explained(before[near], after[near], down[near], right[near])
    return same


def _explained(before: _Floats, after: _Floats, down: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each pair of (n, 32, 32) and (n, 24, 24), whether movements near the given shift explain the change."""
    span = np.arange(after.shape[1], dtype=np.float32)
    y, x = np.meshgrid(span, span, indexing="ij")
    from_centre_y, from_centre_x = y - span.mean(), x - span.mean()
    rows = y + down[:, None, None].astype(np.float32)
    columns = x + right[:, None, None].astype(np.float32)
    identity = _RIDGE * np.eye(6, dtype=np.float32)
    for _ in range(_STEPS):
        moved = _at(before, rows, columns)
        middle = (moved + after) / 2
        slope_y, slope_x = np.gradient(middle, axis=(1, 2))
        zoom = slope_x * from_centre_x + slope_y * from_centre_y
        turn = slope_x * from_centre_y - slope_y * from_centre_x
        causes = np.stack([slope_x, slope_y, zoom, turn, middle, np.ones_like(middle)], axis=3)
        causes = causes.reshape(len(after), span.size**2, 6)
        change = (moved - after).reshape(len(after), span.size**2, 1)
        transposed = causes.transpose(0, 2, 1)
        found = np.linalg.solve(transposed @ causes + identity, transposed @ change)
        shift_x, shift_y, grown, turned = found[:, :4, 0].T[..., None, None]
        columns = columns - (shift_x + grown * from_centre_x + turned * from_centre_y)
        rows = rows - (shift_y + grown * from_centre_y - turned * from_centre_x)
    residual = np.abs(change - causes @ found)[..., 0]
    edges = np.hypot(slope_x, slope_y).reshape(len(after), span.size**2)
    travel = np.hypot(columns - x - _EDGE, rows - y - _EDGE).max(axis=(1, 2), initial=0)
    moving = np.minimum(1, 2 * travel)[:, None]
    unexplained = residual / (_NOISE + moving * (edges + _CLEAR - _NOISE))
    explained: NDArray[np.bool_] = _mostly_edges(edges) & (unexplained.max(axis=1) <= _MAX_UNEXPLAINED)
    return explained


def _mostly_edges(edges: _Floats) -> NDArray[np.bool_]:
    textured: NDArray[np.bool_] = (edges > _EDGE_LEVELS).mean(axis=1) >= _MIN_TEXTURE
    return textured


def _blurred(pictures: NDArray[np.generic]) -> _Floats:
    """(n, 32, 32): pictures (n, 1024) blurred by a Gaussian; cells at the rim weigh what lies inside."""
    cells = np.arange(SIDE)
    weights = np.exp(-((cells[:, None] - cells) ** 2) / (2 * _BLUR**2)).astype(np.float32)
    weights[weights < 1e-4] = 0  # with numbers too small to be normal, products take twenty times as long
    weights /= weights.sum(axis=1, keepdims=True)
    return _along_both(weights, pictures.astype(np.float32).reshape(-1, SIDE, SIDE))


def _along_both(weights: _Floats, pictures: _Floats) -> _Floats:
    """(n, k, k): sums of pictures (n, 32, 32) with weights (k, 32), down and across."""
    # One product of large matrices for each direction: many products of small ones take ten times as long.
    for _ in range(2):
        sums = (pictures.reshape(-1, SIDE) @ weights.T).reshape(*pictures.shape[:2], len(weights))
        pictures = np.ascontiguousarray(sums.transpose(0, 2, 1))
    return pictures


def _best_shift(before: _Floats, after: _Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], _Floats]:
    """For each pair the top left corner in (32, 32) of what looks most like (24, 24), by every second cell of it.

    Returns:
        Rows, columns, and the standard deviation of the difference that remains.
    """
    size, places = after.shape[1], SIDE - after.shape[1] + 1
    before = before - before.mean(axis=(1, 2), keepdims=True)
    inner = after[:, ::2, ::2] - after[:, ::2, ::2].mean(axis=(1, 2), keepdims=True)
    start, cell = np.arange(places)[:, None], np.arange(SIDE)
    every_second = (cell >= start) & (cell < start + size) & ((cell - start) % 2 == 0)
    weights = every_second.astype(np.float32) / inner.shape[1]
    windows = sliding_window_view(before, (size - 1, size - 1), axis=(1, 2))[:, :places, :places, ::2, ::2]
    common = np.einsum("nabij,nij->nab", windows, inner) / inner.shape[1] ** 2
    spread = _along_both(weights, before**2) - _along_both(weights, before) ** 2
    variance = spread + inner.var(axis=(1, 2))[:, None, None] - 2 * common
    variance = variance.reshape(len(variance), places**2)
    best = variance.argmin(axis=1)
    remaining = np.sqrt(np.maximum(variance[np.arange(len(best)), best], 0))
    return best // places, best % places, remaining


def _at(pictures: _Floats, rows: _Floats, columns: _Floats) -> _Floats:
    """(n, h, w): the pictures at fractional places (n, h, w), interpolated between the four cells around."""
    rows, columns = np.clip(rows, 0, SIDE - 1), np.clip(columns, 0, SIDE - 1)
    top, left = (np.minimum(places.astype(np.int64), SIDE - 2) for places in (rows, columns))
    down, right = rows - top, columns - left
    which = np.arange(len(pictures))[:, None, None]
    upper = pictures[which, top, left] * (1 - right) + pictures[which, top, left + 1] * right
    lower = pictures[which, top + 1, left] * (1 - right) + pictures[which, top + 1, left + 1] * right
    between: _Floats = upper * (1 - down) + lower * down
    return between
