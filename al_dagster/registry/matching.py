"""Which new machine box is which standing object, and what becomes of each. Pure functions over one frame.

What becomes of a new box that is a standing object, by its id or because it overlaps it:

| the object | the new box says | outcome |
|---|---|---|
| nobody touched it | anything | matched: the object follows |
| a person touched it, or a rule validated it | the object's class | kept |
| the same | what the machine had said, in about the same place, before a person corrected it | kept: no news |
| the same | any other class | conflict |
| a person deleted it | by its id anything; by overlap its class, or the machine's before | suppressed |

A box that is no standing object is inserted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.geometry import iou_matrix, xywh_to_xyxy

MIN_IOU = 0.5

Box = tuple[float, float, float, float]
Outcome = Literal["inserted", "matched", "kept", "conflict", "suppressed"]


@dataclass(frozen=True, slots=True)
class NewBox:
    """What a machine found: its detection id, category and box (x, y, w, h in pixels)."""

    detection_id: str
    category: str
    box: Box


@dataclass(frozen=True, slots=True)
class StandingObject:
    """An object that the registry has: active, or deleted by a person.

    ``detection_id`` is the detection that its machine fields come from; ``machine_category`` is what the machine said
    before a person corrected it, the category itself where nobody did, and None where it is not known; ``machine_box``
    likewise, the box itself where it is not known. ``human`` says that a person or a rule validated it, or that a
    person edited or deleted it.
    """

    object_id: str
    detection_id: str | None
    category: str | None
    machine_category: str | None
    machine_box: Box
    box: Box
    human: bool
    deleted: bool


@dataclass(slots=True)
class FrameDecision:
    """What becomes of each new box of a frame, and which standing objects the new labels no longer contain.

    Attributes:
        outcomes: one for each new box, in order.
        standing: index of the standing object that the outcome refers to, or None where the box is inserted.
        conflict_ious: overlap with the contradicted object, by index of the new box.
        superseded: indexes of unmatched standing machine objects.
    """

    outcomes: list[Outcome]
    standing: list[int | None]
    conflict_ious: dict[int, float] = field(default_factory=dict)
    superseded: list[int] = field(default_factory=list)


def match_boxes(
    first: Sequence[tuple[str | None, Box]], second: Sequence[tuple[str | None, Box]], min_iou: float = MIN_IOU
) -> list[tuple[int, int]]:
    """Pair boxes of two lists one to one within each category, the greatest overlap first.

    Args:
        first: category and box (x, y, w, h in pixels) of each.
        second: the same.
        min_iou: pairs that overlap less are not made.

    Returns:
        Index pairs, sorted. Equal overlaps are decided by position, so that equal input gives equal pairs.
    """
    if not first or not second:
        return []
    overlaps = _overlaps([box for _, box in first], [box for _, box in second])
    same = np.array([[mine == theirs for theirs, _ in second] for mine, _ in first])
    candidates = np.argwhere(same & (overlaps >= min_iou))
    best_first = np.argsort(-overlaps[candidates[:, 0], candidates[:, 1]], kind="stable")
    pairs: list[tuple[int, int]] = []
    taken_first: set[int] = set()
    taken_second: set[int] = set()
    for i, j in candidates[best_first].tolist():
        if i not in taken_first and j not in taken_second:
            taken_first.add(i)
            taken_second.add(j)
            pairs.append((i, j))
    return sorted(pairs)


def decide_frame(new: Sequence[NewBox], standing: Sequence[StandingObject]) -> FrameDecision:
    """Compare the new labels of a frame with the objects that stand in it.

    In this order, each new box is: the object that carries its id; the active object of its category that it overlaps
    (one to one, IoU at least 0.5); another sighting, or a contradiction, of an object that a person touched or
    deleted, which it overlaps as much (then it is not added beside it); or a new object. The table above says what
    becomes of it. What a person touched never changes; a machine's object that no new box accounts for is superseded.

    Args:
        new: the boxes of the new labels; their detection ids differ from each other.
        standing: the active and deleted objects of the frame.
    """
    refers = _same_ids(new, standing)
    _pair(new, standing, refers, [j for j, known in enumerate(standing) if not known.deleted])
    _see_again(new, standing, refers)
    decision = FrameDecision(outcomes=["inserted"] * len(new), standing=refers)
    for i, j in enumerate(refers):
        if j is not None:
            decision.outcomes[i] = _outcome(new[i], standing[j])
            if decision.outcomes[i] == "conflict":
                decision.conflict_ious[i] = float(_overlaps([new[i].box], [standing[j].box])[0, 0])
    referred = set(refers)
    decision.superseded = [j for j, known in enumerate(standing) if not known.human and j not in referred]
    return decision


def _same_ids(new: Sequence[NewBox], standing: Sequence[StandingObject]) -> list[int | None]:
    by_detection = {known.detection_id: j for j, known in enumerate(standing) if known.detection_id is not None}
    by_object = {known.object_id: j for j, known in enumerate(standing)}
    refers = [by_object.get(box.detection_id) for box in new]
    taken = {j for j in refers if j is not None}
    for i, box in enumerate(new):
        if refers[i] is None and (j := by_detection.get(box.detection_id)) is not None and j not in taken:
            refers[i] = j
            taken.add(j)
    return refers


def _pair(
    new: Sequence[NewBox], standing: Sequence[StandingObject], refers: list[int | None], allowed: Iterable[int]
) -> None:
    taken = set(refers)
    rows = [i for i, j in enumerate(refers) if j is None]
    columns = [j for j in allowed if j not in taken]
    pairs = match_boxes(
        [(new[i].category, new[i].box) for i in rows], [(standing[j].category, standing[j].box) for j in columns]
    )
    for row, column in pairs:
        refers[rows[row]] = columns[column]


def _see_again(new: Sequence[NewBox], standing: Sequence[StandingObject], refers: list[int | None]) -> None:
    """Refer each open box to the touched object that speaks against adding it: one that agrees, else one that does not.

    Of those that agree, the active ones come before the deleted ones, and then the greatest overlap counts.
    """
    open_boxes = [i for i, j in enumerate(refers) if j is None]
    touched = [j for j, known in enumerate(standing) if known.human]
    if not open_boxes or not touched:
        return
    overlaps = _overlaps([new[i].box for i in open_boxes], [standing[j].box for j in touched])
    for i, row in zip(open_boxes, overlaps.tolist(), strict=True):
        against = []
        for j, overlap in zip(touched, row, strict=True):
            known, agrees = standing[j], _agree(new[i], standing[j])
            if overlap >= MIN_IOU and (agrees or not known.deleted):
                against.append(((known.category == new[i].category, agrees, not known.deleted, overlap), j))
        if against:
            refers[i] = max(against, key=lambda ranked: ranked[0])[1]


def _agree(box: NewBox, known: StandingObject) -> bool:
    """Whether a box says the same as an object, or again what the machine had said of it."""
    if box.category == known.category:
        return True
    again = box.category == known.machine_category
    return again and bool(_overlaps([box.box], [known.machine_box])[0, 0] >= MIN_IOU)


def _outcome(box: NewBox, known: StandingObject) -> Outcome:
    if known.deleted:
        return "suppressed"
    if not known.human:
        return "matched"
    return "kept" if _agree(box, known) else "conflict"


def _overlaps(first: Sequence[Box], second: Sequence[Box]) -> NDArray[np.float64]:
    return iou_matrix(xywh_to_xyxy(np.array(first, dtype=np.float64)), xywh_to_xyxy(np.array(second, dtype=np.float64)))
