"""Categories: the classes of objects, shared by all projects."""

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from al_dagster.registry.base import bulk_insert
from al_dagster.registry.tables import Category


def resolve_categories(session: Session, names: Iterable[str], classes: Iterable[str] = ()) -> dict[str, int]:
    """Ids of categories by name; those that are missing are created.

    Args:
        session: a write transaction.
        names: what is needed.
        classes: the project's classes; created first and in this order, so that their ids do not depend on which of
            them is seen first.
    """
    known = _ids(session)
    missing = [name for name in dict.fromkeys([*classes, *names]) if name not in known]
    if not missing:
        return known
    bulk_insert(session, Category, [{"name": name} for name in missing])
    return _ids(session)


def _ids(session: Session) -> dict[str, int]:
    return dict(session.execute(select(Category.name, Category.category_id)).tuples().all())
