"""Draws single metal parts as they look from above: height, surface normals, and the light that they mirror.

A part is modelled as a height over the table; its normals decide what of a lamp, a window and a dark room the metal
reflects. Everything is computed on a grid twice as fine as the picture and averaged down, which smooths the edges.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float32]
_Field = NDArray[np.floating]

CLASSES = ("nut", "bolt", "washer", "screw")
"""The classes, in the order of their indices."""

FINER = 2
"""Grid points a pixel, in each direction."""


@dataclass(frozen=True)
class Light:
    """The light of a scene.

    Args:
        azimuth: direction that the lamp stands in, radians, 0 to the right, growing clockwise in the picture.
        slope: length of a shadow divided by the height that casts it.
        window: direction of a second, weaker light, radians.
        shadow: share of the light that a shadow takes, 0–1.
        penumbra: blur of a shadow's edge in pixels, added to what grows with the shadow's length.
    """

    azimuth: float
    slope: float
    window: float
    shadow: float
    penumbra: float


@dataclass(frozen=True)
class Sprite:
    """A drawn part, cut out.

    Args:
        label: one of ``CLASSES``.
        color: (h, w, 3), float32, RGB 0–1.
        alpha: (h, w), float32, share of a pixel that the part covers, 0–1.
        thickness: height over the table in pixels.
    """

    label: str
    color: Grid
    alpha: Grid
    thickness: float

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The pixels that the part covers at least half: (h, w), bool."""
        return np.asarray(self.alpha >= 0.5)


@dataclass(frozen=True)
class _Form:
    """A part before light falls on it, on the fine grid; lengths in pixels of the picture."""

    outside: _Field
    height: _Field
    shade: _Field
    thickness: float


@dataclass(frozen=True)
class _Metal:
    tint: tuple[float, float, float]
    gloss: float
    matt: float
    grime: float


_METALS = {
    "steel": _Metal((0.66, 0.66, 0.67), gloss=0.85, matt=0.40, grime=0.10),
    "zinc": _Metal((0.74, 0.78, 0.82), gloss=1.0, matt=0.45, grime=0.06),
    "brass": _Metal((0.84, 0.66, 0.31), gloss=0.9, matt=0.45, grime=0.08),
    "black": _Metal((0.17, 0.17, 0.18), gloss=0.75, matt=0.55, grime=0.12),
}
FINISHES = tuple(_METALS)
"""Steel, zinc, brass and black oxide."""

_SHARES = {  # of steel, zinc, brass, black
    "nut": (0.48, 0.30, 0.12, 0.10),
    "bolt": (0.45, 0.30, 0.10, 0.15),
    "washer": (0.50, 0.32, 0.10, 0.08),
    "screw": (0.22, 0.30, 0.33, 0.15),
}


def draw_part(label: str, light: Light, rng: np.random.Generator, finish: str | None = None) -> Sprite:
    """Draw one part of a class at a random angle, size (±20 %), proportion and metal.

    Args:
        label: one of ``CLASSES``.
        light: the light it lies in.
        rng: decides everything random.
        finish: one of ``FINISHES``; drawn at random if it is None.
    """
    size = float(rng.uniform(0.8, 1.2))
    reach = int(_REACH[label] * size) + 4
    axis = (np.arange(-reach * FINER, reach * FINER, dtype=np.float32) + 0.5) / FINER
    x, y = np.meshgrid(axis - np.float32(rng.uniform(-0.5, 0.5)), axis - np.float32(rng.uniform(-0.5, 0.5)))
    turn = float(rng.uniform(0, 2 * np.pi))
    along = x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))
    across = y * np.float32(np.cos(turn)) - x * np.float32(np.sin(turn))
    form = _FORMS[label](np.float32(1 / size) * along, np.float32(1 / size) * across, rng)
    drawn = str(rng.choice(FINISHES, p=_SHARES[label]))
    metal = _METALS[finish or drawn]
    color = _lit(form, metal, light, size, rng)
    alpha = np.clip(0.5 - form.outside * np.float32(size * FINER), 0, 1)
    color = _averaged(color * alpha[..., None])
    alpha = _averaged(alpha)
    color /= np.maximum(alpha, 1e-3)[..., None]
    rows, columns = np.flatnonzero(alpha.max(1) > 0), np.flatnonzero(alpha.max(0) > 0)
    cut = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Sprite(label, color[cut], alpha[cut], form.thickness * size)


def _averaged(grid: _Field) -> Grid:
    height, width = grid.shape[0] // FINER, grid.shape[1] // FINER
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32)


def _nut(u: _Field, v: _Field, rng: np.random.Generator) -> _Form:
    flat = rng.uniform(21.5, 25.0)
    hole = flat * rng.uniform(0.46, 0.56)
    far = np.hypot(u, v)
    hexagon = np.maximum(np.abs(v), np.abs(u) * 0.8660254 + np.abs(v) * 0.5) - flat
    hexagon = np.maximum(hexagon, far - flat * 1.13)
    height = 14 - 0.6 * np.clip(far - flat * 0.95, 0, None) - 1.1 * np.clip(hole * 1.22 - far, 0, None)
    rings = 0.5 + 0.5 * np.sin((far - hole) * 2.6 + np.arctan2(v, u))
    wall = np.clip((hole * 1.12 - far) / 1.2, 0, 1)
    shade = 1 - wall * (0.35 + 0.3 * rings)
    return _Form(np.maximum(hexagon, hole - far), height, shade, 14)


def _washer(u: _Field, v: _Field, rng: np.random.Generator) -> _Form:
    outer = rng.uniform(23.5, 28.0)
    hole = outer * rng.uniform(0.42, 0.58)
    far = np.hypot(u, v)
    height = 3 - 0.7 * np.clip(far - outer + 2.2, 0, None) - 0.5 * np.clip(hole + 1.6 - far, 0, None)
    turned = np.arctan2(v, u)
    streak = np.abs(np.cos(turned + rng.uniform(0, np.pi))) ** 6  # the fan of light on a face polished in circles
    shade = 0.9 + rng.uniform(0.1, 0.35) * streak
    return _Form(np.maximum(far - outer, hole - far), height, shade, 3.5)


def _bolt(u: _Field, v: _Field, rng: np.random.Generator) -> _Form:
    length = rng.uniform(86, 106)
    corner = rng.uniform(23, 26)
    head = corner * rng.uniform(0.72, 0.86)
    radius = corner * rng.uniform(0.47, 0.54)
    t = u + length / 2
    wide = np.abs(v)
    if rng.random() < 0.6:  # a facet looks up, or else an edge
        half, top = corner, corner * 0.866 - 1.7 * np.clip(wide - corner * 0.5, 0, None)
    else:
        half, top = corner * 0.866, corner - 0.577 * wide
    cut = 0.6 * np.clip(wide - half * 0.78, 0, None)
    head_out = np.maximum(np.maximum(-t + cut, t - head), wide - half)
    top = top - 0.8 * np.clip(2.5 + cut - t, 0, None)
    thread, shade = _thread(
        t, v, radius, pitch=rng.uniform(3.6, 4.6), depth=1.5, start=head + length * rng.choice([0.02, 0.22])
    )
    ending = np.clip((t - (length - 3.5)) * 0.8, 0, None)
    thread = thread - ending
    shank_out = np.maximum(wide - thread, np.maximum(head - t, t - length))
    round_top = np.sqrt(np.clip(thread**2 - v**2, 0.01, None))
    on_head = head_out < 0
    neck = np.clip(1 - (t - head) / 5, 0, 1) * 0.45
    return _Form(
        np.minimum(head_out, shank_out),
        np.where(on_head, top, round_top),
        np.where(on_head, 1, shade * (1 - neck)),
        radius + corner * 0.8,
    )


def _screw(u: _Field, v: _Field, rng: np.random.Generator) -> _Form:
    length = rng.uniform(96, 116)
    radius = rng.uniform(6.2, 7.6)
    wide_head = radius * rng.uniform(2.1, 2.5)
    t = u + length / 2
    wide = np.abs(v)
    if rng.random() < 0.6:  # countersunk, or else round
        head = wide_head * rng.uniform(0.8, 1.0)
        outline = wide_head - np.clip(t - 2.2, 0, None) * (wide_head - radius) / (head - 2.2)
    else:
        head = wide_head * rng.uniform(0.75, 0.95)
        outline = wide_head * np.sqrt(np.clip(1 - (1 - np.clip(t / head, 0, 1)) ** 2, 0, 1))
    tip = rng.uniform(16, 24)
    thread, shade = _thread(
        t, v, radius, pitch=rng.uniform(5.0, 6.6), depth=2.2, start=head + length * rng.choice([0.03, 0.3])
    )
    thread = thread * np.clip((length - t) / tip, 0, 1) ** 0.8
    on_head = t < head
    profile = np.where(on_head, outline, thread)
    outside = np.maximum(wide - profile, np.maximum(-t, t - length))
    height = np.sqrt(np.clip(profile**2 - v**2, 0.01, None))
    if rng.random() < 0.55:  # the slot is seen from its end
        slot = np.maximum(wide - 1.7, t - head * 0.4)
        outside = np.maximum(outside, -slot)
        shade = shade * np.where(slot < 1.0, 0.7, 1)
    return _Form(outside, height, np.where(on_head, 1, shade), radius + wide_head * 0.6)


def _thread(t: _Field, v: _Field, radius: float, *, pitch: float, depth: float, start: float) -> tuple[_Field, _Field]:
    """Radius along a shank whose thread begins at ``start``, and how dark its grooves are."""
    turns = t / pitch + 0.25 * v / radius
    ridge = np.abs(2 * (turns - np.floor(turns)) - 1)
    cut = np.clip((t - start) / 2, 0, 1)
    return radius - depth * (1 - ridge) * cut, 1 - 0.5 * (1 - ridge) ** 2 * cut


_FORMS: dict[str, Callable[[_Field, _Field, np.random.Generator], _Form]] = {
    "nut": _nut,
    "bolt": _bolt,
    "washer": _washer,
    "screw": _screw,
}
_REACH = {"nut": 30, "bolt": 62, "washer": 30, "screw": 64}


def _lit(form: _Form, metal: _Metal, light: Light, size: float, rng: np.random.Generator) -> Grid:
    """Colour of a metal form: (h, w, 3), float32."""
    height = cv2.GaussianBlur(form.height.astype(np.float32), (0, 0), 0.55 * FINER)
    scale = size * FINER
    slope_y, slope_x = (step.astype(np.float32) * np.float32(scale) for step in np.gradient(height))
    lean = rng.normal(0, 0.07, 2).astype(np.float32)  # no part lies perfectly flat
    slope_x, slope_y = (slope_x / size + lean[0]), (slope_y / size + lean[1])
    up = 1 / np.sqrt(1 + slope_x**2 + slope_y**2)
    normal_x, normal_y = -slope_x * up, -slope_y * up
    mirror_x, mirror_y, mirror_z = 2 * up * normal_x, 2 * up * normal_y, 2 * up * up - 1

    def lamp(azimuth: float, rise: float, width: float) -> Grid:
        """Brightness of a soft lamp in the mirrored direction."""
        flat = np.sqrt(1 - rise**2)
        toward = mirror_x * (flat * np.cos(azimuth)) + mirror_y * (flat * np.sin(azimuth)) + mirror_z * rise
        return np.asarray(np.exp((toward - 1) / width), dtype=np.float32)

    rise = 1 / np.hypot(1, light.slope)
    facing = normal_x * (np.sqrt(1 - rise**2) * np.cos(light.azimuth))
    facing = facing + normal_y * (np.sqrt(1 - rise**2) * np.sin(light.azimuth)) + up * rise
    room = 0.30 + 0.34 * np.clip(mirror_z * 0.5 + 0.5, 0, 1) - 0.14 * lamp(light.azimuth + np.pi, 0.97, 0.05)
    shine = 0.95 * lamp(light.azimuth, rise, 0.09) + 0.35 * lamp(light.window, 0.55, 0.05)
    value = metal.gloss * (room + shine) + metal.matt * np.clip(facing, 0, None)
    value = value * form.shade * _grime(form.height.shape, metal.grime, rng)
    tint = np.array(metal.tint, dtype=np.float32) * rng.uniform(0.9, 1.1) * rng.normal(1, 0.025, 3).astype(np.float32)
    glint = np.clip(value - 1.0, 0, None)[..., None] * 0.5
    return np.asarray(np.clip(value[..., None] * tint + glint, 0, 1.1), dtype=np.float32)


def _grime(shape: tuple[int, ...], strength: float, rng: np.random.Generator) -> Grid:
    """Spots and fine streaks of a used surface, around 1."""
    small = rng.normal(0, 1, (shape[0] // 8 + 1, shape[1] // 8 + 1)).astype(np.float32)
    spots = cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    fine = rng.normal(0, 1, shape).astype(np.float32)
    streaks = cv2.blur(fine, (9, 1)) if rng.random() < 0.5 else cv2.blur(fine, (1, 9))
    return np.asarray(1 + strength * (0.6 * spots + 0.6 * streaks), dtype=np.float32)
