"""Draws the tables that parts lie on, and the things on them that are no parts."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float32]


def draw_table(width: int, height: int, rng: np.random.Generator) -> Grid:
    """A table top of wood, painted metal, cloth, rubber or cardboard: (height, width, 3), float32, RGB 0–1."""
    kinds: list[Callable[[int, int, np.random.Generator], Grid]] = [_wood, _wood, _paint, _cloth, _rubber, _cardboard]
    return np.clip(kinds[int(rng.integers(len(kinds)))](width, height, rng), 0, 1)


def draw_distractors(table: Grid, shadow_at: tuple[float, float], rng: np.random.Generator) -> None:
    """Draw two to five things that are no parts onto a table, in place: pencil strokes, stains, scratches, paper.

    Args:
        table: (h, w, 3), float32, RGB 0–1.
        shadow_at: where the shadow of a thing one pixel high falls, x and y in pixels.
        rng: decides everything random.
    """
    kinds = [_pencil, _stain, _scratches]
    if rng.random() < 0.45:
        _paper(table, shadow_at, rng)
    for _ in range(int(rng.integers(2, 5))):
        kinds[int(rng.integers(len(kinds)))](table, rng)


def noise(width: int, height: int, cell: float, rng: np.random.Generator, stretch: float = 1.0) -> Grid:
    """Smooth noise of mean 0 and deviation about 1: (height, width), float32.

    Args:
        width: pixels.
        height: pixels.
        cell: size of a speck in pixels.
        rng: decides everything random.
        stretch: how many times longer than high a speck is.
    """
    rows, columns = int(height / cell) + 3, int(width / (cell * stretch)) + 3
    coarse = rng.normal(0, 1, (rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.float32)


def _tinted(value: Grid, color: tuple[float, float, float], rng: np.random.Generator) -> Grid:
    tint = (
        np.array(color, dtype=np.float32)
        * rng.normal(1, 0.04, 3).astype(np.float32)
        * np.float32(rng.uniform(0.9, 1.1))
    )
    return np.asarray(value[..., None] * tint, dtype=np.float32)


def _choice(colors: list[tuple[float, float, float]], rng: np.random.Generator) -> tuple[float, float, float]:
    return colors[int(rng.integers(len(colors)))]


def _wood(width: int, height: int, rng: np.random.Generator) -> Grid:
    color = _choice([(0.66, 0.47, 0.29), (0.76, 0.60, 0.41), (0.50, 0.33, 0.20), (0.60, 0.44, 0.31)], rng)
    upright = rng.random() < 0.4
    if upright:
        width, height = height, width
    warp = noise(width, height, 70, rng, 6) * 6 + noise(width, height, 24, rng, 6) * 2
    lines = rng.normal(0, 1, height + 120).astype(np.float32)
    rings = cv2.GaussianBlur(lines[None], (0, 0), 2.2)[0] * 2.2 + cv2.GaussianBlur(lines[None], (0, 0), 9)[0] * 4
    rows = np.clip(np.arange(height, dtype=np.float32)[:, None] + 60 + warp, 0, height + 118)
    grain = np.interp(rows.ravel(), np.arange(height + 120), rings).reshape(height, width)
    fibre = noise(width, height, 1.3, rng, 22)
    value = 1 + 0.065 * grain + 0.04 * fibre + 0.03 * noise(width, height, 90, rng)
    board = int(rng.integers(110, 220))
    start = int(rng.integers(0, board))
    for top in range(start, height, board):
        value[top : top + board] *= rng.uniform(0.88, 1.08)
        value[max(top - 1, 0) : top + 1] *= 0.55
    value = value.T if upright else value
    return _tinted(np.ascontiguousarray(value, dtype=np.float32), color, rng)


def _paint(width: int, height: int, rng: np.random.Generator) -> Grid:
    color = _choice([(0.27, 0.39, 0.50), (0.32, 0.47, 0.39), (0.36, 0.38, 0.41), (0.52, 0.24, 0.19)], rng)
    value = (
        1
        + 0.03 * noise(width, height, 3, rng)
        + 0.04 * noise(width, height, 70, rng)
        + 0.02 * noise(width, height, 1, rng)
    )
    worn = np.clip(noise(width, height, 14, rng) + noise(width, height, 45, rng) - 2.6, 0, 1) * 0.25
    return _tinted(value + worn, color, rng)


def _cloth(width: int, height: int, rng: np.random.Generator) -> Grid:
    color = _choice([(0.55, 0.57, 0.62), (0.28, 0.33, 0.46), (0.62, 0.55, 0.44), (0.46, 0.22, 0.22)], rng)
    turn, pitch = rng.uniform(0, np.pi), rng.uniform(3.2, 5.0)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + 1.2 * noise(width, height, 30, rng), y + 1.2 * noise(width, height, 30, rng)
    warp = np.sin((x * np.cos(turn) + y * np.sin(turn)) * 2 * np.pi / pitch)
    weft = np.sin((y * np.cos(turn) - x * np.sin(turn)) * 2 * np.pi / pitch)
    threads = noise(width, height, 2, rng)
    value = 1 + 0.09 * warp * weft + 0.05 * threads + 0.05 * noise(width, height, 110, rng)
    return _tinted(np.asarray(value, dtype=np.float32), color, rng)


def _rubber(width: int, height: int, rng: np.random.Generator) -> Grid:
    color = _choice([(0.22, 0.40, 0.36), (0.24, 0.28, 0.36), (0.33, 0.33, 0.32), (0.20, 0.36, 0.52)], rng)
    value = (
        1
        + 0.08 * noise(width, height, 1, rng)
        + 0.05 * noise(width, height, 2.5, rng)
        + 0.04 * noise(width, height, 80, rng)
    )
    dust = (rng.random((height, width)) < 0.0006).astype(np.float32)
    return _tinted(value + 0.9 * cv2.GaussianBlur(dust, (0, 0), 0.7), color, rng)


def _cardboard(width: int, height: int, rng: np.random.Generator) -> Grid:
    color = _choice([(0.70, 0.56, 0.40), (0.78, 0.74, 0.66), (0.62, 0.50, 0.37)], rng)
    turn, pitch = rng.uniform(-0.1, 0.1) + (np.pi / 2 if rng.random() < 0.5 else 0), rng.uniform(9, 14)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    flutes = np.sin((x * np.cos(turn) + y * np.sin(turn)) * 2 * np.pi / pitch)
    value = 1 + 0.018 * flutes + 0.03 * noise(width, height, 1.2, rng, 5) + 0.035 * noise(width, height, 50, rng)
    flecks = np.clip(noise(width, height, 2, rng, 3) - 2.4, 0, 1) * 0.3
    return _tinted(np.asarray(value - flecks, dtype=np.float32), color, rng)


def _stroke(
    table: Grid, points: NDArray[np.float64], thickness: int, color: Grid, strength: float, blur: float
) -> None:
    height, width = table.shape[:2]
    low = np.clip(points.min(axis=0) - 8, 0, (width, height)).astype(int)
    high = np.clip(points.max(axis=0) + 8, 0, (width, height)).astype(int)
    if (high <= low).any():
        return
    target = table[low[1] : high[1], low[0] : high[0]]
    ink = np.zeros(target.shape[:2], dtype=np.uint8)
    cv2.polylines(ink, [np.round((points - low) * 8).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, shift=3)
    cover = cv2.GaussianBlur(ink.astype(np.float32) / 255, (0, 0), blur)[..., None] * np.float32(strength)
    target += cover * (color - target)


def _curve(table: Grid, length: float, bend: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A bent line of about this length somewhere on the table: (24, 2), x and y in pixels."""
    height, width = table.shape[:2]
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, bend, 24))
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / 24
    return np.asarray(np.array([rng.uniform(0, width), rng.uniform(0, height)]) + np.cumsum(steps, axis=0))


def _pencil(table: Grid, rng: np.random.Generator) -> None:
    color = np.array((0.17, 0.17, 0.19), dtype=np.float32)
    _stroke(
        table,
        _curve(table, rng.uniform(50, 220), 0.08, rng),
        int(rng.integers(1, 3)),
        color,
        rng.uniform(0.35, 0.7),
        0.6,
    )


def _scratches(table: Grid, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(2, 6))):
        color = table.mean(axis=(0, 1)) * np.float32(rng.choice([1.35, 0.6]))
        _stroke(table, _curve(table, rng.uniform(20, 160), 0.02, rng), 1, color, rng.uniform(0.3, 0.6), 0.5)


def _stain(table: Grid, rng: np.random.Generator) -> None:
    height, width = table.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    radius = rng.uniform(14, 38)
    far = np.hypot(x - rng.uniform(0, width), (y - rng.uniform(0, height)) * rng.uniform(0.8, 1.3))
    edge = radius - far + 5 * noise(width, height, 14, rng)
    wet = np.clip(edge / 5, 0, 1) * rng.uniform(0.10, 0.24) + np.exp(-((edge / 2.5) ** 2)) * rng.uniform(0, 0.1)
    table *= 1 - wet[..., None].astype(np.float32)


def _paper(table: Grid, shadow_at: tuple[float, float], rng: np.random.Generator) -> None:
    height, width = table.shape[:2]
    corners = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 7))))
    radius = rng.uniform(24, 52) * rng.uniform(0.75, 1.1, len(corners))
    middle = np.array([rng.uniform(20, width - 20), rng.uniform(20, height - 20)])
    outline = middle + np.stack([np.cos(corners), np.sin(corners)], axis=1) * radius[:, None]
    cut = np.zeros((height, width), dtype=np.uint8)
    cv2.fillPoly(cut, [np.round(outline * 8).astype(np.int32)], 255, cv2.LINE_AA, shift=3)
    sheet = cv2.GaussianBlur(cut.astype(np.float32) / 255, (0, 0), 0.5)
    moved = cv2.warpAffine(sheet, np.array([[1, 0, 2.5 * shadow_at[0]], [0, 1, 2.5 * shadow_at[1]]]), (width, height))
    table *= 1 - 0.35 * cv2.GaussianBlur(moved, (0, 0), 1.5)[..., None]
    white = np.array((0.86, 0.85, 0.80), dtype=np.float32) * np.float32(rng.uniform(0.85, 1.05))
    face = white * (1 + 0.02 * noise(width, height, 12, rng) + 0.012 * noise(width, height, 1, rng))[..., None]
    table += sheet[..., None] * (face - table)
