"""Numbers that describe an outline, coded so that their likeness is a dot product."""

import cv2
import numpy as np
from numpy.typing import NDArray

DIRECTIONS = 64
HARMONICS = 9
SPIKE = 3
"""Radius in pixels of the bumps that are smoothed away from an outline before it is measured."""
PARAMETERS = [DIRECTIONS, HARMONICS, SPIKE]


def codes(
    values: NDArray[np.float64] | list[float], low: float, high: float, steps: int, width: float
) -> NDArray[np.float64]:
    """Each value as bell-shaped weights over ``steps`` centres from low to high: (len(values) * steps,).

    Values that differ by much less than ``width`` have nearly the same code, those that differ by much more have
    nothing in common; a value outside low and high counts as the nearer of them.
    """
    centres = np.linspace(low, high, steps)
    clipped = np.clip(np.asarray(values, dtype=np.float64), low, high)
    return np.exp(-0.5 * np.square((clipped[:, None] - centres) / width)).ravel()


def body(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The largest part of a silhouette, holes filled, spikes smoothed off where little is lost: 0 or 1."""
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(inside.shape, dtype=np.uint8)
    cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * SPIKE + 1, 2 * SPIKE + 1))
    border = 2 * SPIKE + 1
    opened = cv2.morphologyEx(np.pad(filled, border), cv2.MORPH_OPEN, kernel)[border:-border, border:-border]
    if opened.sum() < 0.85 * filled.sum():
        return filled
    _, parts, stats, _ = cv2.connectedComponentsWithStats(opened)
    return np.asarray(parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()), dtype=np.uint8)


def reach(filled: NDArray[np.uint8]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Distance in pixels from the centroid to the outline in evenly spaced directions, and the centroid (x, y)."""
    moments = cv2.moments(filled, binaryImage=True)
    centre = (moments["m10"] / moments["m00"], moments["m01"] / moments["m00"])
    farthest = 0.75 * max(filled.shape)
    polar = cv2.warpPolar(
        filled.astype(np.float32),
        (2 * max(filled.shape), DIRECTIONS),
        centre,
        farthest,
        cv2.WARP_POLAR_LINEAR | cv2.WARP_FILL_OUTLIERS | cv2.INTER_LINEAR,
    )
    last = polar.shape[1] - 1 - np.argmax((polar > 0.5)[:, ::-1], axis=1)
    return last * (farthest / polar.shape[1]), centre


def corner_codes(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """How strongly the outline bulges 1 to 9 times a turn, as codes: a hexagon six times, a disc not at all."""
    spectrum = np.abs(np.fft.rfft(distances))
    strength = 2 * spectrum[1 : HARMONICS + 1] / max(float(spectrum[0]), 1e-6)
    low, high = np.log(0.005), np.log(0.5)
    return codes(np.log(np.clip(strength, 0.005, 0.5)), low, high, 8, (high - low) / 7)


def proportion_codes(filled: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Slenderness, convexity and roundness of a level outline, as codes."""
    ys, xs = np.nonzero(filled)
    length, height = float(np.ptp(xs)) + 1, float(np.ptp(ys)) + 1
    contours, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=cv2.contourArea)
    hull = cv2.convexHull(outline)
    area, hull_area = cv2.contourArea(outline), max(cv2.contourArea(hull), 1.0)
    perimeter = max(cv2.arcLength(hull, True), 1.0)
    radius = max(cv2.minEnclosingCircle(outline)[1], 0.5)
    thickness = float(np.median(filled.sum(axis=0)[xs.min() : xs.max() + 1])) / length
    slender = [height / length, len(xs) / length**2, thickness]
    return np.concatenate(
        [
            codes(np.log(np.clip(slender, 0.06, 1.2)), np.log(0.06), 0.2, 14, 0.2),
            codes([height / length, area / hull_area], 0, 1, 12, 0.09),
            codes([4 * np.pi * hull_area / perimeter**2], 0.8, 1, 8, 0.03),
            codes([area / (np.pi * radius**2)], 0.5, 1, 10, 0.06),
        ]
    )
