"""Choosing between readings of the same pixels: one proposal for each object."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import Bounds, LinearConstraint, milp

from al_dagster.core.geometry import iou_matrix
from al_dagster.core.project import UNKNOWN
from al_dagster.vision.protocols import Classification, Mask

LEAST_MASK_SCORE = 0.1
"""Below it the segmenter has found no object, and the likeness of the mask to an example says nothing."""
LEAST_FIT = 0.6
MARGIN_WEIGHT = 0.5
AREA_POWER = 1.3
"""Above 1, so that a whole is worth more than its parts when both fit alike."""

PARAMETERS = {"least_mask_score": LEAST_MASK_SCORE, "fit": [LEAST_FIT, MARGIN_WEIGHT], "area_power": AREA_POWER}
"""What the choice depends on."""


def resolve_overlaps(
    boxes: NDArray[np.floating], masks: Sequence[Mask], classifications: Sequence[Classification], overlap: float = 0.5
) -> list[Classification]:
    """Choose between proposals of one frame that claim the same pixels; those not chosen become "Unknown".

    Of all sets of proposals that leave each other alone, the one of the greatest worth is taken (maximum-weight
    independent set, as an integer program). The worth of a proposal is its area to the power 1.3 times how well it
    fits: score and half the margin, less where its mask fills only a part of its box, for then it was cut out of too
    wide a reading; it is nothing where the segmenter gave the mask a score below 0.1. Holes count as part of a mask,
    so that what is seen through a ring is not an object beside it.

    Args:
        boxes: (n, 4), x1, y1, x2, y2 in pixels.
        masks: n masks.
        classifications: n results of ``classify``.
        overlap: share of the smaller mask that two objects may have in common, 0–1.

    Returns:
        The classifications in their order; scores and margins are kept.
    """
    filled = [replace(mask, pixels=ndimage.binary_fill_holes(mask.pixels)) for mask in masks]
    worth = np.array([_worth(*proposal) for proposal in zip(boxes, filled, classifications, strict=True)])
    rivals = [index for index in range(len(filled)) if worth[index] > 0]
    pairs = [
        (one, other)
        for one in range(len(rivals))
        for other in range(one)
        if _shared(filled[rivals[one]], filled[rivals[other]]) > overlap
    ]
    chosen = {rivals[position] for position in _best_set(worth[rivals], pairs)}
    return [
        result if index in chosen else replace(result, label=UNKNOWN) for index, result in enumerate(classifications)
    ]


def _worth(box: NDArray[np.floating], mask: Mask, result: Classification) -> float:
    if result.label == UNKNOWN or mask.score < LEAST_MASK_SCORE or not mask.pixels.any():
        return 0.0
    columns, rows = np.flatnonzero(mask.pixels.any(axis=0)), np.flatnonzero(mask.pixels.any(axis=1))
    extent = [mask.x + columns[0], mask.y + rows[0], mask.x + columns[-1] + 1, mask.y + rows[-1] + 1]
    tightness = float(iou_matrix(box[None], np.array([extent]))[0, 0])
    fit = tightness**0.5 * (result.score + MARGIN_WEIGHT * result.margin)
    return max(fit - LEAST_FIT, 0.0) * mask.area**AREA_POWER


def _best_set(worth: NDArray[np.float64], pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Positions of the set of the greatest worth that has both of no pair."""
    if not pairs:
        return list(range(len(worth)))
    both = np.zeros((len(pairs), len(worth)))
    for row, pair in enumerate(pairs):
        both[row, list(pair)] = 1
    solved = milp(
        -worth / worth.max(),
        constraints=LinearConstraint(both, -np.inf, 1),
        integrality=np.ones(len(worth)),
        bounds=Bounds(0, 1),
    )
    return [int(position) for position in np.flatnonzero(solved.x > 0.5)]


def _shared(first: Mask, second: Mask) -> float:
    """Pixels in both masks, as a share of the smaller."""
    left, top = max(first.x, second.x), max(first.y, second.y)
    right = min(first.x + first.pixels.shape[1], second.x + second.pixels.shape[1])
    bottom = min(first.y + first.pixels.shape[0], second.y + second.pixels.shape[0])
    if left >= right or top >= bottom:
        return 0.0
    one = first.pixels[top - first.y : bottom - first.y, left - first.x : right - first.x]
    other = second.pixels[top - second.y : bottom - second.y, left - second.x : right - second.x]
    return float((one & other).sum()) / max(1, min(first.area, second.area))
