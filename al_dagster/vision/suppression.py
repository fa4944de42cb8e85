"""Choosing between the boxes of a detector that is asked by phrases: one box for each object.

Such a detector answers each phrase for itself, so that one object is found under two synonyms or two classes, and it
likes to add a box around a whole group beside the boxes of its members.
"""

from dataclasses import dataclass

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from al_dagster.core.geometry import iou_matrix


@dataclass(frozen=True)
class Rules:
    """When a box gives way to others; overlaps are intersection over union, all figures 0–1.

    Args:
        negative: overlap from which a surer negative explains a box.
        same_class: overlap above which two boxes of one class are one object.
        other_class: overlap above which two boxes of different classes are one object. Higher, for things of two
            classes may well lie close together, such as a label on its bottle.
        member_inside: share of a smaller box that must lie in a box to be a member of its group.
        group_covered: share of a box that its members must cover together to make it a group.
        member_confidence: least confidence of a member, as a share of the group's.
    """

    negative: float = 0.5
    same_class: float = 0.7
    other_class: float = 0.85
    member_inside: float = 0.9
    group_covered: float = 0.6
    member_confidence: float = 0.5


RULES = Rules()


def choose_boxes(
    boxes: NDArray[np.floating],
    confidence: NDArray[np.floating],
    class_id: NDArray[np.integer],
    is_negative: NDArray[np.bool_] | None = None,
    rules: Rules = RULES,
) -> NDArray[np.bool_]:
    """Which boxes of one image to keep.

    In this order:

    1. A box that overlaps a negative of its class by ``rules.negative`` or more goes if the negative is surer.
    2. Of two boxes of one class that overlap by more than ``rules.same_class``, the surer stays (non-maximum
       suppression).
    3. A box goes if it is a group: two or more smaller boxes of its class that lie in it and are at least half as
       sure cover most of it together. Small boxes are judged first; a group within a group is no member.
    4. Of two boxes of different classes that overlap by more than ``rules.other_class``, the surer stays.

    The choice does not depend on the order of the boxes (of two that are equally sure, the one further left, then
    further up, then smaller, then of the earlier class stays), and choosing again among those kept keeps them all.

    Args:
        boxes: (n, 4), x1, y1, x2, y2 in pixels.
        confidence: (n,), 0–1.
        class_id: (n,); of a negative, the class that it is a negative of.
        is_negative: (n,), which boxes were found for a negative phrase; they are never kept. None for none.
        rules: the thresholds.

    Returns:
        (n,), which to keep.
    """
    keep = np.zeros(len(boxes), dtype=bool)
    negative = keep if is_negative is None else np.asarray(is_negative, dtype=bool)
    explained = (
        (iou_matrix(boxes, boxes[negative]) >= rules.negative)
        & (confidence[negative][None, :] > confidence[:, None])
        & (class_id[negative][None, :] == class_id[:, None])
    ).any(axis=1)
    left = _in_order(np.flatnonzero(~negative & ~explained), boxes, confidence, class_id)
    scored = np.column_stack([boxes, confidence, class_id]).astype(np.float64)
    left = left[_suppress(scored[left], rules.same_class)]
    left = left[~_groups(boxes[left], confidence[left], class_id[left], rules)]
    left = left[_suppress(scored[left, :5], rules.other_class)]
    keep[left] = True
    return keep


def _in_order(
    indices: NDArray[np.intp],
    boxes: NDArray[np.floating],
    confidence: NDArray[np.floating],
    class_id: NDArray[np.integer],
) -> NDArray[np.intp]:
    """The indices of boxes, the surest first, and one order of those that are equally sure."""
    ranked = np.column_stack([class_id[indices], boxes[indices][:, ::-1], -confidence[indices]])
    return indices[np.lexsort(ranked.T)]


def _suppress(scored: NDArray[np.float64], overlap: float) -> NDArray[np.bool_]:
    """Which of boxes in order to keep; (n, 5) x1, y1, x2, y2, confidence, or (n, 6) with the class."""
    if not len(scored):
        return np.zeros(0, dtype=bool)
    # Ranks in place of confidences, for supervision orders equal ones as it likes.
    ranked = scored.copy()
    ranked[:, 4] = np.arange(len(scored), 0, -1)
    return sv.box_non_max_suppression(ranked, overlap)


def _groups(
    boxes: NDArray[np.floating], confidence: NDArray[np.floating], class_id: NDArray[np.integer], rules: Rules
) -> NDArray[np.bool_]:
    """Which boxes are groups of others."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    member = (
        (class_id[:, None] == class_id[None, :])
        & (areas[None, :] < areas[:, None])
        & (shared >= rules.member_inside * areas[None, :])
        & (confidence[None, :] >= rules.member_confidence * confidence[:, None])
    )
    group = np.zeros(len(boxes), dtype=bool)
    for index in np.argsort(areas, kind="stable"):
        members = boxes[member[index] & ~group]
        if len(members) >= 2:
            group[index] = _covered(boxes[index], members) >= rules.group_covered * areas[index]
    return group


def _covered(box: NDArray[np.floating], parts: NDArray[np.floating]) -> float:
    """Area of a box that the union of others covers, exactly: on the grid that all their sides make."""
    parts = np.clip(parts, np.tile(box[:2], 2), np.tile(box[2:], 2))
    x, y = np.unique(parts[:, [0, 2]]), np.unique(parts[:, [1, 3]])
    columns = (parts[:, :1] <= x[:-1]) & (x[1:] <= parts[:, 2:3])
    rows = (parts[:, 1:2] <= y[:-1]) & (y[1:] <= parts[:, 3:])
    cells = (rows[:, :, None] & columns[:, None, :]).any(axis=0)
    return float(np.diff(y) @ cells @ np.diff(x))
