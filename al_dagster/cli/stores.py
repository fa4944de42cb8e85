"""Opening what the platform has written before, for commands that have nothing to do where it wrote nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from al_dagster.core.errors import UserError
from al_dagster.core.settings import Settings

if TYPE_CHECKING:
    from al_dagster.registry.database import Registry


def has_registry(settings: Settings) -> bool:
    """Whether the registry was made already; an address that is no SQLite file is left to whoever opens it.

    So is a registry that is gone beside what it knew of.
    """
    from al_dagster.registry.database import is_lost

    address = settings.database_url
    if not address.startswith("sqlite:///"):
        return True
    path = Path(address.removeprefix("sqlite:///"))
    return path.exists() or is_lost(path)


@contextmanager
def standing_registry(settings: Settings) -> "Iterator[Registry]":
    """The registry that is there.

    Raises:
        UserError: there is none yet.
    """
    from al_dagster.registry.database import open_registry

    if not has_registry(settings):
        raise UserError(
            f"there is no registry in {settings.home.absolute()} yet: `al ingest` or `al demo` makes it; "
            "if yours lies elsewhere, set AL_HOME"
        )
    with open_registry(settings.database_url) as registry:
        yield registry


def check_conditions(registry: "Registry", *, project: str | None = None, category: str | None = None) -> None:
    """Check that a project and a category are known, so that a slip of the pen is not taken for "none found".

    Raises:
        UserError: one is not; the sentence names those there are.
    """
    from sqlalchemy import select

    from al_dagster.core.text import did_you_mean
    from al_dagster.registry.projects import get_project, list_projects
    from al_dagster.registry.tables import Category

    if project is not None:
        get_project(registry, project)
    if category is not None:
        with registry.reader() as session:
            known = set(session.scalars(select(Category.name)))
        known.update(name for config in list_projects(registry) for name in config.classes)
        if category not in known:
            raise UserError(
                f"there is no category {category!r}; the categories are: {', '.join(sorted(known)) or 'none yet'}"
                f"{did_you_mean([category], known)}"
            )
