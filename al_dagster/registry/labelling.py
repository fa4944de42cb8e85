"""Registering the labels of a batch in one transaction. Labelling again never touches human work."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import RowMapping, bindparam, delete, select, update
from sqlalchemy.orm import Session

from al_dagster.core.failpoints import reach
from al_dagster.core.geometry import MIN_SIDE
from al_dagster.registry.base import bulk_insert, chunked
from al_dagster.registry.batches import mark_unfinished
from al_dagster.registry.calibrations import standing_calibrators
from al_dagster.registry.categories import resolve_categories
from al_dagster.registry.database import Registry
from al_dagster.registry.frame_labels import marked_background
from al_dagster.registry.labels import BOX, MACHINE_COLUMNS, LabelledObject, Registration, machine_values
from al_dagster.registry.matching import NewBox, Outcome, StandingObject, decide_frame
from al_dagster.registry.queueing import queue_deletes, queue_upserts
from al_dagster.registry.tables import Category, Conflict, Object, Project

__all__ = ["LabelledObject", "Registration", "register_batch"]

OUTCOMES: tuple[Outcome, ...] = ("inserted", "matched", "kept", "conflict", "suppressed")


@dataclass(slots=True)
class _Plan:
    """Everything that the transaction will write."""

    inserts: list[LabelledObject] = field(default_factory=list)
    revived: list[LabelledObject] = field(default_factory=list)
    matched: list[tuple[str, LabelledObject]] = field(default_factory=list)
    conflicts: list[tuple[str, LabelledObject, float]] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)
    outcomes: dict[str, tuple[str, Outcome]] = field(default_factory=dict)


def register_batch(
    registry: Registry,
    *,
    project_id: str,
    batch_key: str,
    run_id: str,
    frame_ids: Sequence[str],
    objects: Sequence[LabelledObject],
) -> Registration:
    """Register the labels of a batch: all of them or, if anything raises, none.

    An object that a person validated, edited or deleted stays as the person left it, and to a frame that a person
    marked as background nothing is added. Other objects follow the new labels and keep their ids; those that the new
    labels no longer contain are superseded. A label that contradicts an object that a person touched is recorded as a
    conflict, once; an open conflict that the new labels no longer raise is withdrawn. The confidence of detectors that
    are calibrated for the project is calibrated. Running it again with the same labels writes nothing.

    Args:
        registry: the registry.
        project_id: the project that is labelled; other projects' objects in the same frames are left alone.
        batch_key: the batch.
        run_id: the Dagster run; kept with the objects that this call inserts or changes.
        frame_ids: every frame that was labelled, also those in which nothing was found.
        objects: the labels; their frames, sources and embedding versions are registered.

    Raises:
        ValueError: two labels have one id, a label is in none of the frames, its box is smaller than a pixel or not
            finite, or an embedding does not fit its version.
    """
    by_frame = _by_frame(frame_ids, objects)
    with registry.session() as session:
        empty = marked_background(session, project_id, frame_ids)
        by_frame |= {frame_id: [] for frame_id in empty}
        rows = _standing_rows(session, project_id, list(by_frame))
        names = {row.category_id: row.name for row in session.execute(select(Category.category_id, Category.name))}
        plan = _plan(by_frame, rows, names)
        classes = session.scalar(select(Project.classes).where(Project.project_id == project_id))
        labels = [label for label in objects if label.frame_id not in empty]
        categories = resolve_categories(session, [label.category for label in labels], classes or ())
        calibrators = standing_calibrators(session, project_id)
        written: dict[str, Any] = {
            "project_id": project_id,
            "batch_key": batch_key,
            "run_id": run_id,
            "state": "active",
        }
        bulk_insert(
            session,
            Object,
            [
                {"object_id": label.object_id, "frame_id": label.frame_id, "source_id": label.source_id}
                | machine_values(label, categories, calibrators)
                | written
                for label in plan.inserts
            ],
        )
        _update_changed(session, plan, rows, lambda label: machine_values(label, categories, calibrators), written)
        _supersede(session, plan.superseded)
        _record_conflicts(session, plan.conflicts, _touched(rows), batch_key)
        queued = queue_upserts(
            session,
            _embeddings((label.object_id, label) for label in plan.inserts),
            _embeddings([*plan.matched, *((label.object_id, label) for label in plan.revived)]),
        )
        without = [object_id for object_id, label in plan.matched if label.embedding is None]
        queued += queue_deletes(session, [*plan.superseded, *without])
        if queued:
            mark_unfinished(session, batch_key)
        reach("objects not committed")
    reach("objects committed")
    outcomes = [(label.object_id, *plan.outcomes[label.object_id]) for label in labels]
    counted = Counter(outcome for _, _, outcome in outcomes)
    counted["suppressed"] += len(objects) - len(labels)
    counts: dict[str, int] = {outcome: counted[outcome] for outcome in OUTCOMES}
    return Registration(outcomes, {**counts, "superseded": len(plan.superseded), "queued": queued})


def _by_frame(frame_ids: Sequence[str], objects: Sequence[LabelledObject]) -> dict[str, list[LabelledObject]]:
    repeated = [key for key, times in Counter(label.object_id for label in objects).items() if times > 1]
    if repeated:
        raise ValueError(f"two labels have the id {repeated[0]}")
    boxes = np.array([label.bbox for label in objects], dtype=np.float64).reshape(-1, 4)
    holds_a_pixel = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= MIN_SIDE).all(axis=1)
    if not holds_a_pixel.all():
        wrong = objects[int(holds_a_pixel.argmin())]
        raise ValueError(
            f"label {wrong.object_id} has the box {wrong.bbox}; its sides must be at least {MIN_SIDE:g} px"
        )
    by_frame: dict[str, list[LabelledObject]] = {frame_id: [] for frame_id in frame_ids}
    for label in objects:
        if label.frame_id not in by_frame:
            raise ValueError(f"label {label.object_id} is in frame {label.frame_id}, which is not one of frame_ids")
        by_frame[label.frame_id].append(label)
    return by_frame


def _standing_rows(session: Session, project_id: str, frame_ids: Sequence[str]) -> dict[str, list[RowMapping]]:
    """The project's objects of these frames in every state, by frame, with their category's name."""
    columns = ("object_id", "frame_id", "state", "is_validated", "edited_at", "machine_label", *MACHINE_COLUMNS)
    query = (
        select(*(Object.__table__.c[column] for column in columns), Category.name.label("category"))
        .join(Category, Category.category_id == Object.category_id, isouter=True)
        .order_by(Object.object_id)
    )
    rows: dict[str, list[RowMapping]] = {}
    for chunk in chunked(frame_ids):
        in_frames = query.where(Object.frame_id.in_(chunk), Object.project_id == project_id)
        for row in session.execute(in_frames).mappings():
            rows.setdefault(row["frame_id"], []).append(row)
    return rows


def _plan(
    by_frame: Mapping[str, list[LabelledObject]], rows: Mapping[str, list[RowMapping]], names: Mapping[int, str]
) -> _Plan:
    plan = _Plan()
    for frame_id, labels in by_frame.items():
        known = rows.get(frame_id)
        if known is None:
            plan.inserts += labels
            plan.outcomes.update({label.object_id: (label.object_id, "inserted") for label in labels})
            continue
        present = [row for row in known if row["state"] != "superseded"]
        past = {row["object_id"] for row in known if row["state"] == "superseded"}
        decision = decide_frame(
            [NewBox(label.object_id, label.category, label.bbox) for label in labels],
            [_as_standing(row, names) for row in present],
        )
        for i, (label, outcome, j) in enumerate(zip(labels, decision.outcomes, decision.standing, strict=True)):
            object_id = label.object_id if j is None else present[j]["object_id"]
            plan.outcomes[label.object_id] = (object_id, outcome)
            if outcome == "inserted":
                (plan.revived if object_id in past else plan.inserts).append(label)
            elif outcome == "matched":
                plan.matched.append((object_id, label))
            elif outcome == "conflict":
                plan.conflicts.append((object_id, label, decision.conflict_ious[i]))
        plan.superseded += [present[j]["object_id"] for j in decision.superseded]
    return plan


def _touched(rows: Mapping[str, list[RowMapping]]) -> list[str]:
    return [row["object_id"] for known in rows.values() for row in known if _is_human(row)]


def _is_human(row: RowMapping) -> bool:
    return bool(row["is_validated"]) or row["edited_at"] is not None or row["state"] == "deleted"


def _as_standing(row: RowMapping, names: Mapping[int, str]) -> StandingObject:
    said = row["machine_label"]
    x, y, w, h = (row[side] for side in BOX) if said is None else said["bbox"]
    if said is not None:
        machine_category = names.get(said["category_id"])
    else:
        # Edits that are older than the column did not keep what the machine had said.
        machine_category = row["category"] if row["edited_at"] is None else None
    return StandingObject(
        object_id=row["object_id"],
        detection_id=row["detection_id"],
        category=row["category"],
        machine_category=machine_category,
        machine_box=(x, y, w, h),
        box=(row["bbox_x"], row["bbox_y"], row["bbox_w"], row["bbox_h"]),
        human=_is_human(row),
        deleted=row["state"] == "deleted",
    )


def _update_changed(
    session: Session,
    plan: _Plan,
    rows: Mapping[str, list[RowMapping]],
    values_of: Callable[[LabelledObject], dict[str, Any]],
    written: dict[str, Any],
) -> None:
    standing = {row["object_id"]: row for known in rows.values() for row in known}
    changed: list[dict[str, Any]] = [{"key": label.object_id} | values_of(label) | written for label in plan.revived]
    for object_id, label in plan.matched:
        values = values_of(label)
        if any(standing[object_id][column] != value for column, value in values.items()):
            changed.append({"key": object_id} | values | written)
    if changed:
        values = {column: bindparam(column) for column in changed[0] if column != "key"}
        change = update(Object).where(Object.object_id == bindparam("key")).values(values)
        session.connection().execute(change, changed)


def _supersede(session: Session, object_ids: Sequence[str]) -> None:
    for chunk in chunked(object_ids):
        session.execute(update(Object).where(Object.object_id.in_(chunk)).values(state="superseded"))


def _record_conflicts(
    session: Session,
    conflicts: Sequence[tuple[str, LabelledObject, float]],
    touched: Sequence[str],
    batch_key: str,
) -> None:
    """Record the conflicts that are not known yet, and withdraw the open ones that the new labels do not raise.

    A withdrawn conflict is deleted: nobody has decided it, so that it must be told again if it comes back. One that a
    person resolved is kept and not opened again.
    """
    known: set[tuple[str, str, str]] = set()
    open_ids: dict[tuple[str, str, str], int] = {}
    for chunk in chunked(touched):
        for conflict in session.scalars(select(Conflict).where(Conflict.object_id.in_(chunk))):
            key = (conflict.object_id, conflict.detection_id, conflict.category)
            known.add(key)
            if conflict.resolved_at is None:
                open_ids[key] = conflict.conflict_id
    raised = {(object_id, label.object_id, label.category): (label, iou) for object_id, label, iou in conflicts}
    for ids in chunked([open_ids[key] for key in open_ids.keys() - raised.keys()]):
        session.execute(delete(Conflict).where(Conflict.conflict_id.in_(ids)))
    rows = [
        {
            "object_id": object_id,
            "detection_id": detection_id,
            "batch_key": batch_key,
            "category": category,
            "confidence": float(label.confidence),
            "iou": iou,
            **dict(zip(BOX, map(float, label.bbox), strict=True)),
        }
        for (object_id, detection_id, category), (label, iou) in raised.items()
        if (object_id, detection_id, category) not in known
    ]
    bulk_insert(session, Conflict, rows)


def _embeddings(labels: Iterable[tuple[str, LabelledObject]]) -> dict[tuple[str, str], NDArray[np.float32]]:
    return {
        (object_id, label.embedding_version): label.embedding
        for object_id, label in labels
        if label.embedding is not None and label.embedding_version is not None
    }
