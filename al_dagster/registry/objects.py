"""Reading objects."""

from typing import Any

from sqlalchemy import ColumnElement, Select, func, select

from al_dagster.core.errors import UserError
from al_dagster.registry.database import Registry
from al_dagster.registry.tables import Category, Object


def object_query() -> Select[Any]:
    """Select every column of the objects, with the category's name as ``category``."""
    return select(*Object.__table__.c, Category.name.label("category")).join(
        Category, Category.category_id == Object.category_id, isouter=True
    )


def get_object(registry: Registry, object_id: str) -> dict[str, Any]:
    """An object in whatever state, with all its columns and its category's name as ``category``.

    Raises:
        UserError: there is no such object.
    """
    with registry.reader() as session:
        row = session.execute(object_query().where(Object.object_id == object_id)).mappings().one_or_none()
    if row is None:
        raise UserError(f"there is no object {object_id!r}; `al objects list` lists them")
    return dict(row)


def list_objects(
    registry: Registry,
    *,
    project: str | None = None,
    category: str | None = None,
    min_confidence: float | None = None,
    is_validated: bool | None = None,
    source_id: str | None = None,
    batch_key: str | None = None,
    state: str | None = "active",
    limit: int | None = 100,
    offset: int = 0,
) -> list[dict[str, Any]]:
    """Objects that meet every given condition, oldest first, as `get_object` gives them.

    Args:
        registry: the registry.
        project: project of the object.
        category: name of its category.
        min_confidence: least confidence, 0–1.
        is_validated: whether a person has validated it.
        source_id: source that it is in.
        batch_key: batch that its newest label comes from.
        state: active, superseded or deleted; None for all.
        limit: most objects returned; None for all.
        offset: how many to leave out at the beginning.
    """
    conditions = _conditions(project, category, min_confidence, is_validated, source_id, batch_key, state)
    query = object_query().where(*conditions).order_by(Object.created_at, Object.object_id).limit(limit).offset(offset)
    with registry.reader() as session:
        return [dict(row) for row in session.execute(query).mappings()]


def count_objects(
    registry: Registry,
    *,
    project: str | None = None,
    category: str | None = None,
    min_confidence: float | None = None,
    is_validated: bool | None = None,
    source_id: str | None = None,
    batch_key: str | None = None,
    state: str | None = "active",
) -> int:
    """How many objects meet every given condition; the conditions are those of `list_objects`."""
    conditions = _conditions(project, category, min_confidence, is_validated, source_id, batch_key, state)
    query = select(func.count()).select_from(Object).join(Category, isouter=True).where(*conditions)
    with registry.reader() as session:
        return session.scalar(query) or 0


def _conditions(
    project: str | None,
    category: str | None,
    min_confidence: float | None,
    is_validated: bool | None,
    source_id: str | None,
    batch_key: str | None,
    state: str | None,
) -> list[ColumnElement[bool]]:
    equal = [
        (Object.project_id, project),
        (Category.name, category),
        (Object.is_validated, is_validated),
        (Object.source_id, source_id),
        (Object.batch_key, batch_key),
        (Object.state, state),
    ]
    conditions: list[ColumnElement[bool]] = [column == value for column, value in equal if value is not None]
    if min_confidence is not None:
        conditions.append(Object.confidence >= min_confidence)
    return conditions
