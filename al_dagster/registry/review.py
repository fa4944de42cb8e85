"""What people say about objects. Every change carries who made it and when, and labelling again respects it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from al_dagster.core.errors import UserError
from al_dagster.core.geometry import MIN_SIDE
from al_dagster.registry.base import chunked
from al_dagster.registry.calibrations import standing_calibrators
from al_dagster.registry.categories import resolve_categories
from al_dagster.registry.database import Registry
from al_dagster.registry.labels import BOX, LABEL_COLUMNS, is_corrected
from al_dagster.registry.matching import Box
from al_dagster.registry.queueing import queue_deletes
from al_dagster.registry.tables import Category, Conflict, Frame, Object, Project, Source

AUTO = "auto"
"""Stands in ``validated_by`` where a rule and not a person validated an object; the rule is in ``validation_rule``."""

NOT_VALIDATED: dict[str, Any] = {
    "is_validated": False,
    "validated_by": None,
    "validated_at": None,
    "validation_rule": None,
}

NO_MASK: dict[str, Any] = {"mask_path": None, "polygon": None, "mask_rle": None, "area": None, "mask_score": None}


def validate_objects(registry: Registry, ids: Sequence[str], by: str) -> None:
    """Mark objects as seen and found right by a person: all of them or, if one cannot be, none.

    Their open conflicts are thereby resolved.

    Raises:
        UserError: an object does not exist or is not active, or no person is named.
    """
    with registry.session() as session:
        now = person(by)
        for chunk in chunked(list(_states(session, ids, allowed=("active",)))):
            validated = {"is_validated": True, "validated_by": by, "validated_at": now, "validation_rule": None}
            session.execute(update(Object).where(Object.object_id.in_(chunk)).values(**validated))
            _resolve_conflicts(session, chunk, now)


def edit_object(
    registry: Registry,
    object_id: str,
    by: str,
    *,
    category: str | None = None,
    bbox: Box | None = None,
    is_occluded: bool | None = None,
    is_truncated: bool | None = None,
    is_difficult: bool | None = None,
) -> None:
    """Change what is given of an object and leave the rest; its open conflicts are thereby resolved.

    What the machine had said is kept aside at the first edit. Who says which category or box is right has validated the
    object; flags alone validate nothing. While category or box are not the machine's, the object has no calibrated
    confidence, which is that of the machine's label.

    Mask and vector are of the box: a new box takes both off the object, which is stale until they are made anew
    (`registry.stale`).

    Args:
        registry: the registry.
        object_id: the object.
        by: who changes it.
        category: its new category, standing or one of the project's classes.
        bbox: its new box, x, y, w, h in pixels, inside the image.
        is_occluded: whether something hides part of it.
        is_truncated: whether the image's edge cuts it.
        is_difficult: whether it is hard to recognise.

    Raises:
        UserError: the object does not exist or is not active, the category or the box cannot be used, nothing is
            given, or no person is named.
    """
    flags = {"is_occluded": is_occluded, "is_truncated": is_truncated, "is_difficult": is_difficult}
    values: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    with registry.session() as session:
        now = person(by)
        found = _active(session, object_id)
        if category is not None:
            values["category_id"] = _category_id(session, found, category)
        if bbox is not None:
            values |= _new_box(session, found, bbox)
        if not values:
            raise UserError(f"object {object_id}: give what to change: a category, a box or a flag")
        if found.machine_label is None and found.edited_at is None:
            found.machine_label = {"category_id": found.category_id, "bbox": [getattr(found, side) for side in BOX]}
        if category is not None or bbox is not None:
            values |= {"is_validated": True, "validated_by": by, "validated_at": now, "validation_rule": None}
        if values.get("is_stale"):
            queue_deletes(session, [object_id])
        for column, value in {**values, "edited_by": by, "edited_at": now}.items():
            setattr(found, column, value)
        found.calibrated_confidence = _calibrated(session, found)
        _resolve_conflicts(session, [object_id], now)


def delete_objects(registry: Registry, ids: Sequence[str], by: str) -> list[str]:
    """Say that objects are not there: all of them or, if one cannot be deleted, none.

    An object keeps its row, so that labelling again does not bring it back, and leaves the vector store. What is
    deleted already stays as it was, so that a call that was cut short can be made again.

    Returns:
        The ids that were deleted by this call, in their order.

    Raises:
        UserError: an object does not exist or is superseded, or no person is named.
    """
    with registry.session() as session:
        now = person(by)
        states = _states(session, ids, allowed=("active", "deleted"))
        found = [object_id for object_id, state in states.items() if state == "active"]
        for chunk in chunked(found):
            deleted = {"state": "deleted", "edited_by": by, "edited_at": now}
            session.execute(update(Object).where(Object.object_id.in_(chunk)).values(**deleted))
            _resolve_conflicts(session, chunk, now)
        queue_deletes(session, found)
    return found


def list_conflicts(registry: Registry, project: str | None = None) -> list[dict[str, Any]]:
    """Open conflicts, oldest first: the columns of the conflict, and of its object what it contradicts.

    Each has ``object_category`` and ``object_bbox_x``, ``_y``, ``_w``, ``_h`` beside the new box's ``category`` and
    ``bbox_x``, …, and ``project_id``, ``source_id`` and ``frame_id``.

    Args:
        registry: the registry.
        project: only this project's.
    """
    box = (Object.bbox_x, Object.bbox_y, Object.bbox_w, Object.bbox_h)
    query = (
        select(
            *Conflict.__table__.c,
            Category.name.label("object_category"),
            *(column.label(f"object_{column.key}") for column in box),
            Object.project_id,
            Object.source_id,
            Object.frame_id,
        )
        .join(Object, Object.object_id == Conflict.object_id)
        .join(Category, Category.category_id == Object.category_id, isouter=True)
        .where(Conflict.resolved_at.is_(None))
        .order_by(Conflict.conflict_id)
    )
    if project is not None:
        query = query.where(Object.project_id == project)
    with registry.reader() as session:
        return [dict(row) for row in session.execute(query).mappings()]


def person(by: str) -> datetime:
    """Check the name of the person who makes a change, and give the time of the change in UTC.

    Raises:
        UserError: it is empty, or the word for automatic acceptance.
    """
    if not by.strip():
        raise UserError("a change needs the name of the person who makes it")
    if by.strip() == AUTO:
        raise UserError(f"{AUTO!r} stands for automatic acceptance; give the name of the person who makes the change")
    return datetime.now(UTC).replace(tzinfo=None)


def _active(session: Session, object_id: str) -> Object:
    _states(session, [object_id], allowed=("active",))
    return session.get_one(Object, object_id)


def _states(session: Session, ids: Sequence[str], *, allowed: Sequence[str]) -> dict[str, str]:
    """The state of each object by its id, in the order of the ids; refuses the first that is in no allowed state."""
    found: dict[str, str] = {}
    for chunk in chunked(list(dict.fromkeys(ids))):
        rows = session.execute(select(Object.object_id, Object.state).where(Object.object_id.in_(chunk)))
        states = dict(rows.tuples().all())
        for object_id in chunk:
            if object_id not in states:
                raise UserError(f"there is no object {object_id!r}; `al objects list` lists them")
            if states[object_id] not in allowed:
                raise UserError(
                    f"object {object_id} is {states[object_id]}; only active objects can be reviewed, and nothing was "
                    "changed"
                )
            found[object_id] = states[object_id]
    return found


def _category_id(session: Session, found: Object, category: str) -> int:
    known = session.scalar(select(Category.category_id).where(Category.name == category))
    if known is not None:
        return known
    classes = session.scalar(select(Project.classes).where(Project.project_id == found.project_id)) or []
    if category not in classes:
        raise UserError(
            f"object {found.object_id}: there is no category {category!r}; the classes of project "
            f"{found.project_id} are: {', '.join(classes) or 'none'}"
        )
    return resolve_categories(session, [category], classes)[category]


def _new_box(session: Session, found: Object, bbox: Box) -> dict[str, Any]:
    x, y, w, h = map(float, bbox)
    shown = f"object {found.object_id}: the box {x:g},{y:g},{w:g},{h:g} (x,y,w,h)"
    if not all(map(isfinite, (x, y, w, h))):
        raise UserError(f"{shown} is not four finite numbers; give pixels, such as 10,20,64,48")
    if min(w, h) < MIN_SIDE:
        raise UserError(f"{shown} is less than {MIN_SIDE:g} pixel wide or high; give one that holds the object")
    width, height = _frame_size(session, found)
    if x < 0 or y < 0 or (width is not None and x + w > width) or (height is not None and y + h > height):
        raise UserError(f"{shown} does not lie inside its {width}×{height} image")
    values: dict[str, Any] = dict(zip(BOX, (x, y, w, h), strict=True))
    moved = any(getattr(found, side) != value for side, value in values.items())
    return {**values, **NO_MASK, "is_stale": True} if moved else values


def _frame_size(session: Session, found: Object) -> tuple[int | None, int | None]:
    """Width and height in pixels of the frame that an object is in."""
    frame = session.get(Frame, found.frame_id) if found.frame_id is not None else None
    if frame is not None and frame.width is not None:
        return frame.width, frame.height
    source = session.get_one(Source, found.source_id)
    return source.width, source.height


def _calibrated(session: Session, found: Object) -> float | None:
    """The calibrated confidence of an object: None where its label is not the machine's."""
    label = {column: getattr(found, column) for column in LABEL_COLUMNS}
    calibrator = standing_calibrators(session, found.project_id or "").get(found.detection_model or "")
    if calibrator is None or found.confidence is None or is_corrected(label):
        return None
    return float(calibrator.apply(found.confidence))


def _resolve_conflicts(session: Session, object_ids: Sequence[str], now: datetime) -> None:
    session.execute(
        update(Conflict)
        .where(Conflict.object_id.in_(object_ids), Conflict.resolved_at.is_(None))
        .values(resolved_at=now)
    )
