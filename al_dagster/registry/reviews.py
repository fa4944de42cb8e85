"""Reviews: for each object that a person judged, what the machine had said and whether that was right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import and_, func, or_, select

from al_dagster.core.geometry import iou_matrix, xywh_to_xyxy
from al_dagster.registry.database import Registry
from al_dagster.registry.labels import BOX
from al_dagster.registry.matching import MIN_IOU
from al_dagster.registry.review import AUTO
from al_dagster.registry.tables import Category, Object, Source, SourceGroup


@dataclass(frozen=True, slots=True)
class Review:
    """A person's judgement of a machine's label.

    Attributes:
        object_id: the object.
        group_key: shared by the objects of all sources of one group of the project.
        detection_model: id and revision of the detector that found it.
        category: what the machine took it for.
        confidence: the detector's, raw, 0–1.
        correct: the machine was right.
    """

    object_id: str
    group_key: str
    detection_model: str
    category: str | None
    confidence: float
    correct: bool


def list_reviews(registry: Registry, project_id: str) -> list[Review]:
    """The reviews of a project, by object id.

    The machine was right where a person validated the object, which a correction does too, with the category that the
    machine gave it and a box that overlaps the machine's by IoU 0.5 or more. It was wrong where a person deleted the
    object, or left it with another category or a box that overlaps less. Nothing else is a review: an object that a
    rule validated, one of which a person changed flags only, and one that was edited before the registry kept what the
    machine had said.
    """
    machines = Object.machine_label
    group_key = func.coalesce(SourceGroup.group_key, Source.group_key).label("group_key")
    query = (
        select(
            *(Object.object_id, group_key, Object.detection_model, Object.category_id, Object.confidence),
            *(Object.state, Object.is_validated, Object.validated_by, Object.edited_at, machines),
            *(getattr(Object, side) for side in BOX),
        )
        .join(Source, Source.source_id == Object.source_id)
        .outerjoin(
            SourceGroup,
            and_(SourceGroup.source_id == Object.source_id, SourceGroup.project_id == Object.project_id),
        )
        .where(
            Object.project_id == project_id,
            Object.detection_model.is_not(None),
            Object.confidence.is_not(None),
            or_(
                Object.state == "deleted",
                and_(Object.state == "active", or_(Object.is_validated, Object.edited_at.is_not(None))),
            ),
        )
        .order_by(Object.object_id)
    )
    with registry.reader() as session:
        names = {row.category_id: row.name for row in session.execute(select(Category.category_id, Category.name))}
        rows = session.execute(query).mappings().all()
    found = []
    for row in rows:
        correct = _correct(row)
        if correct is not None:
            said = row["machine_label"] or row
            found.append(
                Review(
                    object_id=row["object_id"],
                    group_key=row["group_key"],
                    detection_model=row["detection_model"],
                    category=names.get(said["category_id"]),
                    confidence=row["confidence"],
                    correct=correct,
                )
            )
    return found


def _correct(row: Mapping[Any, Any]) -> bool | None:
    """Whether the machine was right, or None where no person has judged it or its label is not known."""
    if row["state"] == "deleted":
        return False
    said = row["machine_label"]
    if row["edited_at"] is not None:
        if said is None:
            return None
        left = np.array([[row[side] for side in BOX]])
        overlap = iou_matrix(xywh_to_xyxy(left), xywh_to_xyxy(np.array([said["bbox"]])))[0, 0]
        if row["category_id"] != said["category_id"] or overlap < MIN_IOU:
            return False
    return True if row["is_validated"] and row["validated_by"] != AUTO else None
