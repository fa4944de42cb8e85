"""Which pixels stand out of a surface, and which of them belong together."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from al_dagster.vision import backdrop
from al_dagster.vision.backdrop import Difference, Surface, fit_surface, gradient
from al_dagster.vision.protocols import Image

COLOUR = 5.0
BRIGHT = 5.0
EDGE = 2.2
GREY_SURFACE = 0.25
LEAST_PIXELS = 50
SEED = 20
TWO_COLOURS = 15.0
"""Distance of two colours in 8-bit Lab from which they may be of two things."""
RELATIVE = 0.4
MOST = 4.0
LEAST_EVIDENCE = 0.1
"""Evidence below which pixels do not differ, where a crowd is told from the surface."""
LEAST_LEVEL = 0.3
PARAMETERS = {
    "backdrop": backdrop.PARAMETERS,
    "evidence": [COLOUR, BRIGHT, EDGE, GREY_SURFACE],
    "levels": [LEAST_EVIDENCE, LEAST_LEVEL],
    "least_pixels": LEAST_PIXELS,
    "relative": [RELATIVE, MOST],
    "colours": [TWO_COLOURS, SEED],
}
"""What the regions depend on."""


@dataclass(frozen=True)
class Scene:
    """What the objects of an image are told from.

    Args:
        surface: what lies behind them.
        level: the evidence from which a pixel is an object's.
    """

    surface: Surface
    level: float = 1.0


def scene_of(image: Image, smooth: Image) -> Scene:
    """The surface of an image, and how much a pixel must differ from it to be an object's.

    That is 1, except where objects crowd the image: it then has two kinds of pixels in plenty, and the level lies
    between them, by the method of Otsu (1979) on the logarithm of the evidence, and within 0.3 to 1.

    Args:
        image: (height, width, 3), uint8.
        smooth: the same as ``smoothed`` gives it.
    """
    surface = fit_surface(smooth)
    if not surface.crowded:
        return Scene(surface)
    logs = np.log(np.maximum(stand_out(image, surface.difference(smooth)), LEAST_EVIDENCE))
    low, high = float(logs.min()), max(float(logs.max()), 0.0)
    scaled = ((logs - low) * (255 / max(high - low, 1e-6))).astype(np.uint8)
    between, _ = cv2.threshold(scaled.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    return Scene(surface, float(np.clip(np.exp(low + (high - low) * between / 255), LEAST_LEVEL, 1.0)))


def smoothed(image: Image) -> Image:
    """The image with its noise and finest texture taken off, edges kept."""
    return np.asarray(cv2.medianBlur(cv2.GaussianBlur(image, (0, 0), 0.8), 3), dtype=np.uint8)


def stand_out(image: Image, difference: Difference, level: float = 1.0) -> NDArray[np.float32]:
    """How much each pixel differs from the surface other than by a shadow; above 1 is an object.

    Args:
        image: (height, width, 3), uint8.
        difference: how the image, smoothed, differs from the surface.
        level: how far that must be for an object, as in ``Scene``.
    """
    colour = cv2.GaussianBlur(difference.colour, (0, 0), 1.0) / COLOUR
    bright = cv2.GaussianBlur(difference.brightness, (0, 0), 1.0) / BRIGHT
    steps = gradient(np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0), dtype=np.uint8))
    plain = np.maximum(colour, np.abs(bright)) < 0.6
    usual = float(np.percentile(steps[plain], 98)) if plain.sum() > 100 else float(np.median(steps))
    # On a coloured surface a step without a change of tint is a shadow's edge; on a grey one it may be an object's.
    trust = float(np.clip((GREY_SURFACE - difference.chroma) / 0.1, 0.0, 1.0))
    edges = trust * steps / max(EDGE * usual, 0.05)
    return np.asarray(np.maximum(np.maximum(colour, bright), edges) / level, dtype=np.float32)


def distinct(evidence: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The pixels of objects: where the evidence is above 1 and at least two fifths of what it is in its region.

    The second part takes away the blur around things that stand out strongly, so that neighbours come apart.
    """
    _, blobs = cv2.connectedComponents((evidence > 1.0).astype(np.uint8), connectivity=8)
    result = np.zeros(evidence.shape, dtype=bool)
    for blob, window in enumerate(ndimage.find_objects(blobs), 1):
        inside = blobs[window] == blob
        if inside.sum() < LEAST_PIXELS:
            continue
        values = evidence[window]
        threshold = np.clip(RELATIVE * np.percentile(values[inside], 80), 1.0, MOST)
        result[window] |= inside & (values > threshold)
    return result


def solid(objects: NDArray[np.bool_], largest_hole: float = 1.0) -> NDArray[np.uint8]:
    """Gaps closed, holes up to a share of the image filled, specks and lines removed: (height, width), 0 or 1."""
    cross = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    closed = cv2.morphologyEx(np.pad(objects.astype(np.uint8), 4), cv2.MORPH_CLOSE, cross)[4:-4, 4:-4]
    filled = ndimage.binary_fill_holes(closed).astype(np.uint8)
    if largest_hole < 1:
        holes, count = ndimage.label(filled > closed)
        large = np.bincount(holes.ravel(), minlength=count + 1) > largest_hole * objects.size
        large[0] = False
        filled[large[holes]] = 0
    return np.asarray(cv2.morphologyEx(filled, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))))


def split_by_colour(image: Image, objects: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Label the parts of a binary image, cutting each connected one between its two main colours.

    Returns:
        (height, width), int32: 0 outside, different numbers inside; slivers along the cut belong to no part.
    """
    lab = cv2.cvtColor(smoothed(image), cv2.COLOR_RGB2LAB).astype(np.float32)
    _, blobs = cv2.connectedComponents(objects, connectivity=8)
    result = np.zeros(objects.shape, dtype=np.int32)
    used = 0
    for blob, window in enumerate(ndimage.find_objects(blobs), 1):
        inside = blobs[window] == blob
        if inside.sum() < 2 * LEAST_PIXELS:
            continue
        cv2.setRNGSeed(SEED)
        criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 0.5)
        _, nearest, centres = cv2.kmeans(lab[window][inside], 2, None, criteria, 2, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
        if np.linalg.norm(centres[0] - centres[1]) < TWO_COLOURS:
            continue
        own_masks = [_smooth_part(inside, nearest.ravel() == colour) for colour in (0, 1)]
        if min(own.sum() for own in own_masks) < LEAST_PIXELS:
            continue  # the second colour is that of the rim
        for own in own_masks:
            count, parts = cv2.connectedComponents(own, connectivity=8)
            result[window] = np.where((parts > 0) & inside, parts + used, result[window])
            used += count - 1
    return result


def _smooth_part(inside: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The chosen ones of the pixels inside, gaps closed, holes filled and slivers removed: 0 or 1."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    own = np.zeros(inside.shape, dtype=np.uint8)
    own[inside] = chosen
    closed = cv2.morphologyEx(np.pad(cv2.medianBlur(own, 5), 4), cv2.MORPH_CLOSE, kernel)[4:-4, 4:-4]
    filled = ndimage.binary_fill_holes(closed).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(filled, cv2.MORPH_OPEN, kernel), dtype=np.uint8)
