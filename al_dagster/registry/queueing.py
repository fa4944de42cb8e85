"""Asking the outbox for what it was not asked for yet, within the caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from al_dagster.registry.base import bulk_insert, chunked
from al_dagster.registry.tables import EmbeddingOutbox, EmbeddingVersion

Wanted = Mapping[tuple[str, str], NDArray[np.float32]]


def queue_upserts(session: Session, new: Wanted, standing: Wanted) -> int:
    """Queue the vectors that the vector store does not have and was not yet asked to take.

    An object has a vector of one version: those of other versions are queued to be removed.

    Args:
        session: a write transaction.
        new: vectors of objects that the registry did not have before, by (object id, embedding version).
        standing: the same of objects that it had.

    Returns:
        How many were queued.

    Raises:
        ValueError: a vector has another dimension than its version, or the version is not registered.
    """
    _check(session, [*new.items(), *standing.items()])
    blobs = {key: _blob(vector) for key, vector in standing.items()}
    known = _newest(session, [object_id for object_id, _ in standing])
    changed = {key: blob for key, blob in blobs.items() if known.get(key) != ("upsert", blob)}
    wanted = {**{key: _blob(vector) for key, vector in new.items()}, **changed}
    rows: list[dict[str, Any]] = [
        {"object_id": object_id, "version_id": version_id, "operation": "upsert", "embedding": blob}
        for (object_id, version_id), blob in wanted.items()
    ]
    rows += [
        {"object_id": object_id, "version_id": version_id, "operation": "delete", "embedding": None}
        for (object_id, version_id), (operation, _) in known.items()
        if operation != "delete" and (object_id, version_id) not in standing
    ]
    bulk_insert(session, EmbeddingOutbox, rows)
    return len(rows)


def queue_deletes(session: Session, object_ids: Sequence[str]) -> int:
    """Queue the removal of every vector that the vector store has, or is about to take, of these objects."""
    known = _newest(session, object_ids)
    rows = [
        {"object_id": object_id, "version_id": version_id, "operation": "delete"}
        for (object_id, version_id), (operation, _) in known.items()
        if operation != "delete"
    ]
    bulk_insert(session, EmbeddingOutbox, rows)
    return len(rows)


def _newest(session: Session, object_ids: Sequence[str]) -> dict[tuple[str, str], tuple[str, bytes | None]]:
    """The newest operation and vector by (object id, version).

    Where the newest row failed, what the store holds is not known: the operation is "failed", which is unlike any
    wish, so that the next wish is queued.
    """
    found: dict[tuple[str, str], tuple[str, bytes | None]] = {}
    columns = (
        EmbeddingOutbox.object_id,
        EmbeddingOutbox.version_id,
        EmbeddingOutbox.operation,
        EmbeddingOutbox.embedding,
        EmbeddingOutbox.status,
    )
    for chunk in chunked(object_ids):
        newest = (
            select(func.max(EmbeddingOutbox.id))
            .where(EmbeddingOutbox.object_id.in_(chunk))
            .group_by(EmbeddingOutbox.object_id, EmbeddingOutbox.version_id)
        )
        for object_id, version_id, operation, blob, status in session.execute(
            select(*columns).where(EmbeddingOutbox.id.in_(newest))
        ):
            found[object_id, version_id] = ("failed", None) if status == "failed" else (operation, blob)
    return found


def _check(session: Session, wanted: Iterable[tuple[tuple[str, str], NDArray[np.float32]]]) -> None:
    shapes = {(version_id, vector.shape) for (_, version_id), vector in wanted}
    if not shapes:
        return
    columns = (EmbeddingVersion.version_id, EmbeddingVersion.dimension)
    dimensions = dict(session.execute(select(*columns)).tuples().all())
    for version_id, shape in sorted(shapes):
        if version_id not in dimensions:
            raise ValueError(f"embedding version {version_id!r} is not registered; call ensure_version first")
        if shape != (dimensions[version_id],):
            raise ValueError(
                f"embeddings of version {version_id!r} must have shape ({dimensions[version_id]},), got {shape}"
            )


def _blob(vector: NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()
