"""Embedding versions: which model made a vector; vectors of two versions are never compared."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from al_dagster.core.errors import UserError
from al_dagster.registry.database import Registry
from al_dagster.registry.tables import EmbeddingOutbox, EmbeddingVersion, Object


@dataclass(frozen=True)
class VersionRecord:
    """An embedding version.

    Attributes:
        version_id: its name, such as ``dinov2_base_v1``.
        model_name: the model that makes its vectors.
        model_type: kind of model, such as ``dinov2``.
        dimension: length of a vector.
    """

    version_id: str
    model_name: str
    model_type: str
    dimension: int


def ensure_version(registry: Registry, version_id: str, model_name: str, model_type: str, dimension: int) -> None:
    """Make an embedding version known; if it is known already, nothing changes.

    Raises:
        ValueError: it is known with another model or dimension, or the dimension is below 1.
    """
    if dimension < 1:
        raise ValueError(f"vectors of {version_id} must have a dimension of at least 1, got {dimension}")
    wanted = VersionRecord(version_id, model_name, model_type, dimension)
    with registry.session() as session:
        row = session.get(EmbeddingVersion, version_id)
        if row is None:
            session.add(
                EmbeddingVersion(
                    version_id=version_id, model_name=model_name, model_type=model_type, dimension=dimension
                )
            )
        elif (row.model_name, row.dimension) != (model_name, dimension):
            raise ValueError(f"embedding version {version_id} is known as {_record(row)}, not {wanted}; name a new one")


def get_version(registry: Registry, version_id: str) -> VersionRecord:
    """The embedding version of this name.

    Raises:
        UserError: there is none.
    """
    with registry.reader() as session:
        row = session.get(EmbeddingVersion, version_id)
        if row is None:
            known = ", ".join(record.version_id for record in _all(session)) or "none: nothing has been embedded yet"
            raise UserError(f"embedding version {version_id!r} is not in the registry; known: {known}")
        return _record(row)


def list_versions(registry: Registry, batch_key: str | None = None) -> list[VersionRecord]:
    """All embedding versions, or those that objects of a batch have or had a vector of, by name."""
    with registry.reader() as session:
        if batch_key is None:
            return _all(session)
        of_batch = (
            select(EmbeddingOutbox.version_id)
            .join(Object, Object.object_id == EmbeddingOutbox.object_id)
            .where(Object.batch_key == batch_key)
        )
        had = set(session.scalars(of_batch.distinct()))
        return [record for record in _all(session) if record.version_id in had]


def versions_in_use(registry: Registry, project: str | None = None) -> list[str]:
    """The embedding versions that active objects, of a project or all, have a vector of, the most frequent first."""
    query = (
        select(Object.embedding_version)
        .where(Object.state == "active", Object.is_stale.is_(False), Object.embedding_version.is_not(None))
        .where(*([Object.project_id == project] if project is not None else []))
        .group_by(Object.embedding_version)
        .order_by(func.count().desc(), Object.embedding_version)
    )
    with registry.reader() as session:
        return [str(version) for version in session.scalars(query)]


def _all(session: Session) -> list[VersionRecord]:
    return [_record(row) for row in session.scalars(select(EmbeddingVersion).order_by(EmbeddingVersion.version_id))]


def _record(row: EmbeddingVersion) -> VersionRecord:
    return VersionRecord(row.version_id, row.model_name, row.model_type, row.dimension)
