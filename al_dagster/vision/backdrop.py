"""What lies behind the objects: a smooth, unevenly lit surface, and the shadows that fall on it."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from al_dagster.vision.protocols import Image

SAMPLES = 2500
ITERATIONS = 10
OFFSET = 6.0
"""Added to pixel values before the logarithm, so that the noise of dark pixels does not swamp it."""
NOISE_FLOOR = 0.012
"""Least standard deviation assumed of the surface, in log brightness: just over one of 255 levels at mid-grey."""
CLIPPED = 250
"""From this value on, a channel may be brighter than it shows."""
COLOUR_CELL = 0.03
"""Side of a cell of the colours' histogram, in log RGB."""
NARROWER = 0.5
"""Spread, as a share of the first fit's, below which the fit from the commonest colour is taken."""
LEAST_SHARE = 0.25
"""Share of the image that the surface must show on for it."""
PARAMETERS = [SAMPLES, ITERATIONS, OFFSET, NOISE_FLOOR, CLIPPED, COLOUR_CELL, NARROWER, LEAST_SHARE]
"""What the difference depends on."""


@dataclass(frozen=True)
class Difference:
    """How an image differs from the surface behind its objects.

    Args:
        darkening: (height, width), float32; natural logarithm of the brightness over the surface's.
        tint: (height, width, 3), float32; what remains of the log RGB difference when the brightness is taken out.
        brightness_spread: standard deviation of ``darkening`` over the surface.
        tint_spread: root mean square length of ``tint`` over the surface.
        chroma: how far the surface itself is from grey, as the length of its log RGB less their mean.
    """

    darkening: NDArray[np.float32]
    tint: NDArray[np.float32]
    brightness_spread: float
    tint_spread: float
    chroma: float

    @property
    def brightness(self) -> NDArray[np.float32]:
        """Brightness over the surface's, in standard deviations of the surface: (height, width), float32."""
        return self.darkening / np.float32(self.brightness_spread)

    @property
    def colour(self) -> NDArray[np.float32]:
        """Distance in hue and saturation from the surface, in standard deviations: (height, width), float32."""
        return np.asarray(_length(self.tint) / self.tint_spread, dtype=np.float32)


@dataclass(frozen=True)
class Surface:
    """A fitted surface.

    Args:
        coefficients: (6, 3): of 1, x, y, x², xy, y² for each channel's log RGB, x and y from 0 to 1 over the image.
        brightness_spread: as in ``Difference``.
        tint_spread: as in ``Difference``.
        chroma: as in ``Difference``.
        crowded: objects cover so much of the image that only the fit from its commonest colour tells them from the
            surface.
    """

    coefficients: NDArray[np.float64]
    brightness_spread: float
    tint_spread: float
    chroma: float
    crowded: bool

    def difference(self, image: Image, window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)) -> Difference:
        """How an image differs from the surface.

        Args:
            image: (height, width, 3), uint8: the fitted image, or a part of it at any scale.
            window: where the part lies in the fitted image: x1, y1, x2, y2 as shares of its width and height.
        """
        height, width = image.shape[:2]
        left, top, right, bottom = window
        rows, columns = np.indices((height, width)).reshape(2, -1)
        x = left + (right - left) * columns / max(width - 1, 1)
        y = top + (bottom - top) * rows / max(height - 1, 1)
        surface = (_basis(x, y) @ self.coefficients).reshape(height, width, 3).astype(np.float32)
        darkening, tint = _compared(image, np.log(image.astype(np.float32) + OFFSET), surface)
        return Difference(darkening, tint, self.brightness_spread, self.tint_spread, self.chroma)


def fit_surface(image: Image, known: NDArray[np.bool_] | None = None) -> Surface:
    """Fit the surface behind the objects.

    The surface's colour is a quadratic in x and y in log RGB, where light multiplies, fitted robustly from the
    commonest brightness outwards, so that objects covering less than half of the pixels do not count. A whole image is
    fitted a second time from its commonest colour outwards. Both mostly end at the same surface; where objects crowd
    the image, so that the first fit takes them for a part of the surface, the second is much narrower and is taken.

    Args:
        image: (height, width, 3), uint8.
        known: (height, width), bool: pixels to fit to, such as the border of a crop; all when None.
    """
    height, width = image.shape[:2]
    places = np.arange(height * width) if known is None else np.flatnonzero(known)
    # An odd stride over the flattened grid spreads the samples over both axes.
    places = places[:: (len(places) // SAMPLES) | 1]
    pixels = image.reshape(-1, 3)[places]
    samples = np.log(pixels.astype(np.float32) + np.float32(OFFSET)).astype(np.float64)
    basis = _basis(places % width / max(width - 1, 1), places // width / max(height - 1, 1))
    coefficients, weights, spread = _fitted(samples, basis, _near_commonest(samples))
    crowded = False
    if known is None:
        narrow = _fitted(samples, basis, _near_commonest_colour(samples))
        crowded = bool(np.prod(narrow[2]) < NARROWER**3 * np.prod(spread) and (narrow[1] > 0.1).mean() >= LEAST_SHARE)
        if crowded:
            coefficients, weights, spread = narrow
    inliers = weights > 0.1
    common = samples[inliers].mean(axis=0)
    darkening, tint = _compared(
        pixels[inliers], samples[inliers].astype(np.float32), (basis[inliers] @ coefficients).astype(np.float32)
    )
    return Surface(
        coefficients,
        brightness_spread=max(1.4826 * float(np.median(np.abs(darkening))), NOISE_FLOOR),
        tint_spread=max(1.2 * float(np.median(_length(tint))), NOISE_FLOOR),
        chroma=float(np.linalg.norm(common - common.mean())),
        crowded=crowded,
    )


def _fitted(
    samples: NDArray[np.float64], basis: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients, weights of the samples and spread a channel, fitted robustly from these weights on."""
    for _ in range(ITERATIONS):
        weighted = basis * weights[:, None]
        coefficients = np.linalg.solve(weighted.T @ basis + 1e-4 * np.eye(basis.shape[1]), weighted.T @ samples)
        residual = samples - basis @ coefficients
        spread = np.maximum(1.4826 * np.median(np.abs(residual[weights > 0.1]), axis=0), NOISE_FLOOR)
        distance = _length(residual / spread) / np.sqrt(3)
        weights = np.square(np.clip(1 - np.square(distance / 4.0), 0, None)) + 1e-6
    return np.asarray(coefficients, dtype=np.float64), weights, spread


def _compared(
    image: Image, logs: NDArray[np.float32], surface: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Brightness and tint against the surface; a clipped channel counts only where it is brighter than expected."""
    residual = logs - surface
    open_channels = (image < CLIPPED).astype(np.float32)
    count = _sum(open_channels)
    darkening = np.where(count > 0, _sum(residual * open_channels) / np.maximum(count, 1), _sum(residual) / 3)
    tint = residual - darkening[..., None]
    tint = np.where(open_channels > 0, tint, np.maximum(tint, 0))
    return darkening.astype(np.float32), tint.astype(np.float32)


def _sum(channels: NDArray[np.floating]) -> NDArray[Any]:
    """The sum over the last axis, which is short: NumPy's own sum is several times as slow there."""
    return np.asarray(np.einsum("...c->...", channels))


def _length(vectors: NDArray[np.floating]) -> NDArray[Any]:
    """The length of the vectors along the last axis."""
    return np.asarray(np.sqrt(np.einsum("...c,...c->...", vectors, vectors)))


def _basis(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _near_commonest(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight 1 for samples near the commonest brightness and nearly none for the others."""
    grey = samples.mean(axis=1)
    counts, edges = np.histogram(grey, bins=40)
    peak = int(np.argmax(np.convolve(counts, np.ones(5), mode="same")))
    near = np.abs(grey - (edges[peak] + edges[peak + 1]) / 2) <= max(0.25, 2.5 * (edges[1] - edges[0]))
    return near + 1e-6


def _near_commonest_colour(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight 1 for samples near the commonest colour and nearly none for the others."""
    cells = np.floor(samples / COLOUR_CELL).astype(int)
    _, first, counts = np.unique(cells, axis=0, return_index=True, return_counts=True)
    fullest = cells[first[counts.argmax()]]
    colour = samples[(np.abs(cells - fullest) <= 1).all(axis=1)].mean(axis=0)
    return (np.abs(samples - colour) <= 1.5 * COLOUR_CELL).all(axis=1) + 1e-6


def gradient(image: Image) -> NDArray[np.float32]:
    """Strongest step of any channel at each pixel, in log brightness a pixel: (height, width), float32."""
    logs = np.log(image.astype(np.float32) + OFFSET)
    steps = cv2.magnitude(cv2.Scharr(logs, cv2.CV_32F, 1, 0) / 32, cv2.Scharr(logs, cv2.CV_32F, 0, 1) / 32)
    return np.maximum(np.maximum(steps[..., 0], steps[..., 1]), steps[..., 2])
