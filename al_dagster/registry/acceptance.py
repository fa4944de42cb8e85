"""Automatic acceptance: objects validated by a rule, and taking that back. What a person touched is never touched."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, select, update
from sqlalchemy.orm import Session

from al_dagster.core.errors import UserError
from al_dagster.registry.base import chunked
from al_dagster.registry.database import Registry
from al_dagster.registry.review import AUTO, NOT_VALIDATED
from al_dagster.registry.tables import Calibration, Category, Conflict, Object


@dataclass(frozen=True)
class AcceptanceRule:
    """Which objects of a project are accepted.

    Attributes:
        project_id: the project.
        detection_model: only what this detector found, ``model_id@revision``.
        calibration_id: its calibration, which must still be active.
        min_confidence: raw, 0–1.
        category: only of this category, or None.
        text: the rule in words, kept with each object.
    """

    project_id: str
    detection_model: str
    calibration_id: str
    min_confidence: float
    category: str | None
    text: str


def open_objects(registry: Registry, project_id: str, category: str | None = None) -> dict[str, int]:
    """How many objects of a project nobody has judged yet, by detector."""
    clauses = [*_untouched(project_id, category), Object.detection_model.is_not(None)]
    query = select(Object.detection_model, func.count()).join(Category, isouter=True).where(*clauses)
    with registry.reader() as session:
        return {str(row[0]): row[1] for row in session.execute(query.group_by(Object.detection_model))}


def acceptable(registry: Registry, rule: AcceptanceRule) -> list[dict[str, Any]]:
    """The objects that a rule would accept now: ``object_id``, ``category`` and ``calibrated_confidence``, by id."""
    with registry.reader() as session:
        return _acceptable(session, rule)


def accept(registry: Registry, rule: AcceptanceRule) -> list[dict[str, Any]]:
    """Validate the objects that a rule accepts, in one transaction; they are given as by `acceptable`.

    Raises:
        UserError: the calibration that the rule rests on is no longer active.
    """
    with registry.session() as session:
        active = select(Calibration.is_active).where(Calibration.calibration_id == rule.calibration_id)
        if not session.scalar(active):
            raise UserError(
                f"the confidence of {rule.detection_model} was calibrated anew meanwhile; nothing of it was accepted: "
                "run the same command again"
            )
        rows = _acceptable(session, rule)
        values = {
            "is_validated": True,
            "validated_by": AUTO,
            "validated_at": datetime.now(UTC).replace(tzinfo=None),
            "validation_rule": rule.text,
        }
        for chunk in chunked([row["object_id"] for row in rows]):
            session.execute(update(Object).where(Object.object_id.in_(chunk)).values(**values))
        return rows


def undo_acceptance(registry: Registry, project_id: str, category: str | None = None) -> dict[str, int]:
    """Take back every automatic validation of a project, but of objects that a person has edited or deleted since.

    An object that a person validated or corrected since is that person's and no longer automatic. Open conflicts that
    were recorded because an object was validated are withdrawn, since it follows the machine's labels again.

    Returns:
        How many were taken back, by category.
    """
    automatic = and_(
        Object.project_id == project_id,
        Object.state == "active",
        Object.validated_by == AUTO,
        Object.edited_at.is_(None),
        *([Category.name == category] if category is not None else []),
    )
    with registry.session() as session:
        query = select(Object.object_id, Category.name).join(Category, isouter=True).where(automatic)
        rows = session.execute(query).all()
        for chunk in chunked([row.object_id for row in rows]):
            session.execute(update(Object).where(Object.object_id.in_(chunk)).values(**NOT_VALIDATED))
            raised = and_(Conflict.object_id.in_(chunk), Conflict.resolved_at.is_(None))
            session.execute(delete(Conflict).where(raised))
    return dict(sorted(Counter(row.name or "" for row in rows).items()))


def _untouched(project_id: str, category: str | None) -> list[ColumnElement[bool]]:
    clauses: list[ColumnElement[bool]] = [
        Object.project_id == project_id,
        Object.state == "active",
        Object.is_validated.is_(False),
        Object.edited_at.is_(None),
    ]
    return clauses if category is None else [*clauses, Category.name == category]


def _acceptable(session: Session, rule: AcceptanceRule) -> list[dict[str, Any]]:
    query = (
        select(Object.object_id, Category.name.label("category"), Object.calibrated_confidence)
        .join(Category, isouter=True)
        .where(
            *_untouched(rule.project_id, rule.category),
            Object.detection_model == rule.detection_model,
            Object.confidence >= rule.min_confidence,
            Object.calibrated_confidence.is_not(None),
        )
        .order_by(Object.object_id)
    )
    return [dict(row) for row in session.execute(query).mappings()]
