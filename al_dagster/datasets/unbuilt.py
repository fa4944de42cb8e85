"""Whether a dataset would hold something else if it were built now; looked at again only when something has changed."""

from importlib.metadata import version

from pydantic import BaseModel

from al_dagster.core.fingerprints import fingerprint
from al_dagster.datasets.build import select_content
from al_dagster.datasets.definition import DatasetDefinition, UnsatisfiedDefinitionError
from al_dagster.datasets.selection import open_pool
from al_dagster.registry.database import Registry
from al_dagster.registry.datasets import get_dataset, list_datasets


class Content(BaseModel):
    """What a build would hold.

    Args:
        made_from: names the state of the registry, the definition and the program that it follows from.
        content_hash: hash of what it would hold; None where there is nothing to build.
        problem: why there is nothing to build.
    """

    made_from: str
    content_hash: str | None = None
    problem: str | None = None


def content_now(
    registry: Registry, definition: DatasetDefinition, *, duplicate_distance: int, known: Content | None = None
) -> Content:
    """What a build would hold now.

    Args:
        registry: where the objects are.
        definition: what to select and how to split.
        duplicate_distance: as for ``build_dataset``.
        known: what it was when it was asked for last; it is so still if nothing that it follows from has changed.

    Raises:
        UserError: the project is unknown.
    """
    made_from = fingerprint(
        state=registry.content_state(),
        definition=definition.model_dump(mode="json"),
        duplicate_distance=duplicate_distance,
        version=version("al_dagster"),
    )
    if known is not None and known.made_from == made_from:
        return known
    try:
        with open_pool(registry, definition.project) as pool:
            content = select_content(registry, pool, definition, duplicate_distance).content_hash
    except UnsatisfiedDefinitionError as error:
        return Content(made_from=made_from, problem=str(error))
    return Content(made_from=made_from, content_hash=content)


def is_built(registry: Registry, name: str, content_hash: str) -> bool:
    """Whether the version of a dataset that was built last holds just that."""
    return bool(list_datasets(registry, name)) and get_dataset(registry, name).content_hash == content_hash
