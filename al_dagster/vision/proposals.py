"""Class-agnostic region proposals: things that lie on a surface."""

import cv2
import numpy as np
from scipy import ndimage

from al_dagster.core.geometry import iou_matrix
from al_dagster.vision import regions
from al_dagster.vision.cascades import Found, scaled_down
from al_dagster.vision.necks import LEVEL_STEP, split_touching
from al_dagster.vision.protocols import Image

LONGEST_SIDE = 640
SMALLEST_SHARE = 0.0012
LARGEST_SHARE = 0.35
LEAST_RADIUS = 3.5
"""Radius in pixels of the largest disc inside a region, below which it is a line."""
NECKS = (0.75, 0.85, 0.6, 0.95, 0.0)
"""How much a region must narrow to be cut there, the likeliest reading of touching things first."""

RANK_FACTOR = 0.93
ALIKE = 0.85
CROWDED_HOLE = 0.01
"""Share of the image above which a hole in a crowd is surface between objects that touch."""
PARAMETERS = {
    "longest_side": LONGEST_SIDE,
    "sizes": [SMALLEST_SHARE, LARGEST_SHARE, LEAST_RADIUS],
    "necks": [NECKS, LEVEL_STEP, RANK_FACTOR, ALIKE],
    "crowded_hole": CROWDED_HOLE,
    "regions": regions.PARAMETERS,
}
"""What the boxes and confidences depend on."""


def propose(image: Image) -> Found:
    """Boxes of things that stand out of the surface they lie on, and how clearly they do.

    Where things touch or cover each other, it is open where one ends: the region is cut in several ways, at its necks
    and between its two main colours, and the boxes of all of them are proposed, the likeliest with the most
    confidence. Boxes of one region therefore overlap; who knows the classes decides between them.

    Returns:
        Boxes (n, 4), x1, y1, x2, y2 in pixels, and confidences (n,): ``e / (e + 1)`` for the median evidence ``e`` of
        the region (1 where it is just told from the surface), times 0.93 for each less likely way of cutting.
    """
    small, scale = scaled_down(image, LONGEST_SIDE)
    if min(small.shape[:2]) < 16:
        return np.empty((0, 4)), np.empty(0)
    smooth = regions.smoothed(small)
    scene = regions.scene_of(small, smooth)
    evidence = regions.stand_out(small, scene.surface.difference(smooth), scene.level)
    total = small.shape[0] * small.shape[1]
    boxes, confidences = np.empty((0, 4)), np.empty(0)
    solid = regions.solid(regions.distinct(evidence), CROWDED_HOLE if scene.surface.crowded else 1.0)
    readings = [*split_touching(solid, *NECKS), regions.split_by_colour(small, solid)]
    for rank, parts in enumerate(readings):
        for index, window in enumerate(ndimage.find_objects(parts), 1):
            inside = parts[window] == index if window else np.zeros((0, 0), dtype=bool)
            if not SMALLEST_SHARE * total <= inside.sum() <= LARGEST_SHARE * total:
                continue
            if cv2.distanceTransform(np.pad(inside.astype(np.uint8), 1), cv2.DIST_L2, 3).max() < LEAST_RADIUS:
                continue
            rows, columns = window
            box = np.array([[columns.start, rows.start, columns.stop, rows.stop]], dtype=np.float64)
            if (iou_matrix(box, boxes) < ALIKE).all():
                strength = float(np.median(evidence[window][inside]))
                if strength < 1.0:
                    continue  # the hole of a ring shows the surface
                boxes = np.concatenate([boxes, box])
                confidences = np.append(confidences, RANK_FACTOR**rank * strength / (strength + 1.0))
    return boxes / scale, confidences
