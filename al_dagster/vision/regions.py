"""Which pixels stand out of a surface, and which of them belong together."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from al_dagster.vision.backdrop import Difference, gradient, surface_difference
from al_dagster.vision.protocols import Image

COLOUR = 5.0
BRIGHT = 5.0
EDGE = 2.2
GREY_SURFACE = 0.25
NECK = 0.6
LEVEL_STEP = 0.5
LEAST_PIXELS = 50
RELATIVE = 0.4
MOST = 4.0
PARAMETERS = {"evidence": [COLOUR, BRIGHT, EDGE, GREY_SURFACE], "neck": NECK, "relative": [RELATIVE, MOST]}
"""What the regions depend on."""


def stand_out(image: Image, known: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """How much each pixel differs from the surface other than by a shadow; above 1 is an object."""
    difference = surface_difference(smoothed(image), known)
    return evidence_of(image, difference)


def smoothed(image: Image) -> Image:
    """The image with its noise and finest texture taken off, edges kept."""
    return np.asarray(cv2.medianBlur(cv2.GaussianBlur(image, (0, 0), 0.8), 3), dtype=np.uint8)


def evidence_of(image: Image, difference: Difference) -> NDArray[np.float32]:
    """The evidence of ``stand_out`` from a difference that is known already."""
    colour = cv2.GaussianBlur(difference.colour, (0, 0), 1.0) / COLOUR
    bright = cv2.GaussianBlur(difference.brightness, (0, 0), 1.0) / BRIGHT
    steps = gradient(np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0), dtype=np.uint8))
    plain = np.maximum(colour, np.abs(bright)) < 0.6
    usual = float(np.percentile(steps[plain], 98)) if plain.sum() > 100 else float(np.median(steps))
    # On a coloured surface a step without a change of tint is a shadow's edge; on a grey one it may be an object's.
    trust = float(np.clip((GREY_SURFACE - difference.chroma) / 0.1, 0.0, 1.0))
    edges = trust * steps / max(EDGE * usual, 0.05)
    return np.asarray(np.maximum(np.maximum(colour, bright), edges), dtype=np.float32)


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


def solid(objects: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Gaps closed, holes filled, specks and lines removed: (height, width), 0 or 1."""
    cross = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    closed = cv2.morphologyEx(np.pad(objects.astype(np.uint8), 4), cv2.MORPH_CLOSE, cross)[4:-4, 4:-4]
    filled = ndimage.binary_fill_holes(closed).astype(np.uint8)
    return np.asarray(cv2.morphologyEx(filled, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))))


def split_touching(objects: NDArray[np.uint8], neck: float = NECK) -> NDArray[np.int32]:
    """Label the parts of a binary image, cutting where it narrows.

    The distance to the outline is flooded from its peaks downwards. Where two parts meet, they become one if the
    passage between them is at least ``neck`` times as wide as the narrower of the two, and stay apart if not.

    Returns:
        (height, width), int32: 0 outside, different numbers inside.
    """
    _, blobs = cv2.connectedComponents(objects, connectivity=8)
    result = np.zeros(objects.shape, dtype=np.int32)
    used = 0
    for blob, window in enumerate(ndimage.find_objects(blobs), 1):
        inside = blobs[window] == blob
        parts = _split(inside.astype(np.uint8), neck)
        result[window][inside] = parts[inside] + used
        used += int(parts.max())
    return result


def _split(blob: NDArray[np.uint8], neck: float) -> NDArray[np.int32]:
    """The parts of one connected blob, numbered from 1 with gaps."""
    depth = cv2.distanceTransform(np.pad(blob, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    labels = np.zeros(blob.shape, dtype=np.int32)
    peaks: dict[int, float] = {}
    for level in np.arange(np.floor(2 * depth.max()) / 2, -LEVEL_STEP, -LEVEL_STEP):
        count, components = cv2.connectedComponents((depth > level).astype(np.uint8), connectivity=8)
        pairs = np.unique(components[labels > 0] * (len(peaks) + 1) + labels[labels > 0])
        for component in range(1, count):
            meeting = [int(pair) % (len(peaks) + 1) for pair in pairs if pair // (len(peaks) + 1) == component]
            meeting.sort(key=lambda label: -peaks[label])
            for smaller in meeting[1:]:
                if level + LEVEL_STEP >= neck * peaks[smaller]:
                    labels[labels == smaller] = meeting[0]
        met = np.unique(components[labels > 0])
        for component in np.setdiff1d(np.arange(1, count), met):
            peaks[len(peaks) + 1] = float(level + LEVEL_STEP)
            labels[components == component] = len(peaks)
        labels = _grown(labels, components)
    return labels


def _grown(labels: NDArray[np.int32], components: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels spread over the rest of their components."""
    kernel = np.ones((3, 3), np.uint8)
    while True:
        missing = (components > 0) & (labels == 0)
        if not missing.any():
            return labels
        spread = cv2.dilate(labels.astype(np.float32), kernel).astype(np.int32)
        reached = missing & (spread > 0)
        if not reached.any():
            return labels
        labels = np.where(reached, spread, labels)
