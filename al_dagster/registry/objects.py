"""Reading objects."""

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

from sqlalchemy import ColumnElement, Select, func, or_, select

from al_dagster.core.errors import UserError
from al_dagster.registry.base import chunked
from al_dagster.registry.database import Registry
from al_dagster.registry.tables import Category, Object


class Conditions(TypedDict, total=False):
    """What objects may be chosen by; a condition that is left out or None does not restrict, but for the state.

    Attributes:
        project: project of the object.
        category: name of its category.
        min_confidence: least confidence, 0–1.
        is_validated: whether it is validated, by a person or automatically.
        is_stale: whether its mask and vector wait to be made anew.
        embedding_version: version of its vector.
        source_id: source that it is in.
        batch_key: batch that its newest label comes from.
        state: active, superseded or deleted, or None for all; active if left out.
    """

    project: str | None
    category: str | None
    min_confidence: float | None
    is_validated: bool | None
    is_stale: bool | None
    embedding_version: str | None
    source_id: str | None
    batch_key: str | None
    state: str | None


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
    registry: Registry, *, limit: int | None = 100, offset: int = 0, **conditions: Unpack[Conditions]
) -> list[dict[str, Any]]:
    """Objects that meet every given condition, oldest first, as `get_object` gives them.

    Args:
        registry: the registry.
        limit: most objects returned; None for all.
        offset: how many to leave out at the beginning.
        conditions: see `Conditions`.
    """
    query = object_query().where(*_clauses(conditions)).order_by(Object.created_at, Object.object_id)
    with registry.reader() as session:
        return [dict(row) for row in session.execute(query.limit(limit).offset(offset)).mappings()]


def object_ids(registry: Registry, **conditions: Unpack[Conditions]) -> list[str]:
    """The ids of the objects that meet every given condition, sorted."""
    query = select(Object.object_id).join(Category, isouter=True).where(*_clauses(conditions))
    with registry.reader() as session:
        return list(session.scalars(query.order_by(Object.object_id)))


def some_masks(registry: Registry, count: int) -> tuple[list[tuple[str, str]], int]:
    """Project and path of the masks of active objects, at random if there are more than ``count``; and how many are."""
    masked = (Object.state == "active", Object.mask_path.is_not(None))
    with registry.reader() as session:
        total = session.scalar(select(func.count()).where(*masked)) or 0
        chosen = select(Object.project_id, Object.mask_path).where(*masked)
        if total > count:
            chosen = chosen.order_by(func.random()).limit(count)
        return [(project, path) for project, path in session.execute(chosen)], total


def touched_masks(registry: Registry, frame_ids: Sequence[str]) -> list[tuple[str, str, str]]:
    """Frame, path and run lengths of the masks of active objects in frames that a person or a rule touched."""
    query = select(Object.frame_id, Object.mask_path, Object.mask_rle).where(
        Object.state == "active",
        or_(Object.is_validated, Object.edited_at.is_not(None)),
        Object.mask_path.is_not(None),
        Object.mask_rle.is_not(None),
    )
    with registry.reader() as session:
        chunks = chunked(list(frame_ids))
        return [tuple(row) for chunk in chunks for row in session.execute(query.where(Object.frame_id.in_(chunk)))]


def count_objects(registry: Registry, **conditions: Unpack[Conditions]) -> int:
    """How many objects meet every given condition."""
    query = select(func.count()).select_from(Object).join(Category, isouter=True).where(*_clauses(conditions))
    with registry.reader() as session:
        return session.scalar(query) or 0


def _clauses(conditions: Conditions) -> list[ColumnElement[bool]]:
    columns = {"project": Object.project_id, "category": Category.name}
    clauses: list[ColumnElement[bool]] = []
    for name, value in {"state": "active", **conditions}.items():
        if value is None:
            continue
        if name == "min_confidence":
            clauses.append(Object.confidence >= value)
        else:
            clauses.append((columns[name] if name in columns else getattr(Object, name)) == value)
    return clauses
