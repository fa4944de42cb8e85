"""Takes the picture of parts on a table: light, cast shadows, uneven brightness, lens blur and sensor noise."""

from dataclasses import dataclass

import cv2
import numpy as np

from al_dagster.demo.parts import Grid, Light, Sprite
from al_dagster.demo.tables import draw_distractors, draw_table, noise
from al_dagster.vision.protocols import Image

WIDTH, HEIGHT = 640, 480


@dataclass(frozen=True)
class Placed:
    """A part at its place.

    Args:
        sprite: the drawn part.
        x: column of the sprite's left edge in the picture, pixels.
        y: row of the sprite's top edge, pixels.
        lift: how far the part is raised by what it lies on, pixels.
    """

    sprite: Sprite
    x: int
    y: int
    lift: float

    @property
    def area(self) -> tuple[slice, slice]:
        """The rows and columns of the picture that the sprite takes."""
        height, width = self.sprite.alpha.shape
        return np.s_[self.y : self.y + height, self.x : self.x + width]


def draw_light(rng: np.random.Generator) -> Light:
    """A lamp and a window at random places."""
    azimuth = rng.uniform(0, 2 * np.pi)
    return Light(
        azimuth=azimuth,
        slope=rng.uniform(0.45, 1.1),
        window=azimuth + rng.uniform(1.5, 4.5),
        shadow=rng.uniform(0.40, 0.62),
        penumbra=rng.uniform(0.8, 2.0),
    )


def photograph(placed: list[Placed], light: Light, rng: np.random.Generator) -> Image:
    """What a camera sees of a table with these parts.

    Args:
        placed: the parts, bottom to top.
        light: the light that the parts were drawn in.
        rng: decides the table, what else lies on it, and the noise.

    Returns:
        (480, 640, 3), uint8, RGB.
    """
    canvas = draw_table(WIDTH, HEIGHT, rng)
    shadow_at = (-np.cos(light.azimuth) * light.slope, -np.sin(light.azimuth) * light.slope)
    draw_distractors(canvas, shadow_at, rng)
    for spot in placed:
        _cast_shadow(canvas, spot, light, shadow_at)
        alpha = spot.sprite.alpha[..., None]
        canvas[spot.area] = canvas[spot.area] * (1 - alpha) + spot.sprite.color * alpha
    canvas *= _illumination(light, rng)[..., None]
    canvas *= rng.normal(1, 0.03, 3).astype(np.float32)
    exposed = np.where(
        canvas > 0.75, 0.75 + 0.35 * np.tanh((canvas - 0.75) / 0.5), canvas
    )  # highlights saturate softly
    blurred = cv2.GaussianBlur(exposed, (0, 0), float(rng.uniform(0.45, 0.85)))
    colored = rng.normal(0, 0.6, (HEIGHT, WIDTH, 3)).astype(np.float32)
    grain = colored + rng.normal(0, 0.8, (HEIGHT, WIDTH, 1)).astype(np.float32)
    blurred += grain * np.sqrt(0.00003 + 0.0004 * np.clip(blurred, 0, 1)) * np.float32(rng.uniform(0.6, 1.2))
    return np.asarray(np.clip(blurred * 255 + 0.5, 0, 255), dtype=np.uint8)


def _cast_shadow(canvas: Grid, spot: Placed, light: Light, shadow_at: tuple[float, float]) -> None:
    tall = spot.sprite.thickness + spot.lift
    pad = int(tall * light.slope) + 14
    alpha = np.pad(spot.sprite.alpha, pad)
    shadow = alpha.copy()
    for step in np.arange(1.0, tall * light.slope + 1) / light.slope:
        moved = np.array([[1, 0, shadow_at[0] * step], [0, 1, shadow_at[1] * step]])
        np.maximum(shadow, cv2.warpAffine(alpha, moved, alpha.shape[::-1]), out=shadow)
    soft = cv2.GaussianBlur(shadow, (0, 0), light.penumbra + 0.06 * tall * light.slope)
    contact = cv2.GaussianBlur(alpha, (0, 0), 4.0)
    dark = (1 - light.shadow * soft) * (1 - 0.2 * contact)
    top, left = max(spot.y - pad, 0), max(spot.x - pad, 0)
    target = canvas[top : spot.y - pad + dark.shape[0], left : spot.x - pad + dark.shape[1]]
    first_row, first_column = top - (spot.y - pad), left - (spot.x - pad)
    part = dark[first_row : first_row + target.shape[0], first_column : first_column + target.shape[1]]
    target *= part[..., None]


def _illumination(light: Light, rng: np.random.Generator) -> Grid:
    """Brightness over the picture: brighter towards the lamp, darker in the corners: (480, 640), float32."""
    x, y = np.meshgrid(np.linspace(-1, 1, WIDTH, dtype=np.float32), np.linspace(-0.75, 0.75, HEIGHT, dtype=np.float32))
    toward = x * np.cos(light.azimuth) + y * np.sin(light.azimuth)
    field = 1 + rng.uniform(0.12, 0.30) * toward - rng.uniform(0.10, 0.24) * (x**2 + y**2) / 1.5625
    field += 0.03 * noise(WIDTH, HEIGHT, 200, rng)
    return np.asarray(field * rng.uniform(0.9, 1.12), dtype=np.float32)
