"""Search by embedding: the nearest objects of a vector, or of another object, that meet conditions.

The vector store is asked for more than is wanted, without conditions, and the registry keeps what meets them: filtering
in the index is two hundred times slower. When that finds too few because the conditions are rarely met, the objects
that meet them are compared one by one, which is exact, or if they are many, the store is asked for more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, select

from al_dagster.core.errors import UserError
from al_dagster.registry.base import chunked
from al_dagster.registry.database import Registry
from al_dagster.registry.embedding_versions import get_version
from al_dagster.registry.objects import get_object, object_query
from al_dagster.registry.tables import Category, EmbeddingOutbox, Object
from al_dagster.vectors.protocols import VectorStore

OVERFETCH = 10
WIDEN = 4
COMPARED_ONE_BY_ONE = 2000


@dataclass(frozen=True)
class SearchHit:
    """An object that was found.

    Attributes:
        object: all columns of the object, and its category's name as ``category``.
        similarity: cosine of the angle between its vector and the one searched for, −1 to 1.
    """

    object: dict[str, Any]
    similarity: float


def search_vectors(
    registry: Registry,
    store: VectorStore,
    vector: NDArray[np.floating] | Sequence[float],
    *,
    top_k: int = 10,
    category: str | None = None,
    project: str | None = None,
    min_confidence: float | None = None,
) -> list[SearchHit]:
    """The active objects whose vectors are nearest to a vector, nearest first.

    Args:
        registry: knows the objects.
        store: open vector store.
        vector: (store.dimension,), of the store's embedding version.
        top_k: most objects to find.
        category: only objects of the category of this name.
        project: only objects of this project.
        min_confidence: only objects of at least this confidence, 0–1.

    Returns:
        At most top_k; none if no object meets the conditions.

    Raises:
        UserError: the vector does not fit, top_k is below 1, or the registry does not know the embedding version.
    """
    get_version(registry, store.version_id)
    wanted = _as_vector(vector, store)
    conditions = _conditions(store.version_id, category, project, min_confidence)
    return _search(registry, store, wanted, top_k, conditions)


def search_object(
    registry: Registry,
    store: VectorStore,
    object_id: str,
    *,
    top_k: int = 10,
    category: str | None = None,
    project: str | None = None,
    min_confidence: float | None = None,
) -> list[SearchHit]:
    """The active objects most like an object, nearest first, without itself.

    Takes the same conditions as `search_vectors`.

    Raises:
        UserError: the object is not in the registry, is stale or has no vector of this version, or as `search_vectors`
            raises.
    """
    get_version(registry, store.version_id)
    if get_object(registry, object_id)["is_stale"]:
        raise UserError(
            f"object {object_id} was moved by a person and its vector is not made anew yet: run `al objects refresh` "
            "and search again"
        )
    wanted = _as_vector(_vector_of(registry, store, object_id), store)
    conditions = [*_conditions(store.version_id, category, project, min_confidence), Object.object_id != object_id]
    return _search(registry, store, wanted, top_k, conditions)


def _search(
    registry: Registry,
    store: VectorStore,
    vector: NDArray[np.float32],
    top_k: int,
    conditions: list[ColumnElement[bool]],
) -> list[SearchHit]:
    if top_k < 1:
        raise UserError(f"top_k must be at least 1, got {top_k}")
    n = OVERFETCH * top_k
    nearest = store.query(vector, n)
    hits = _meeting(registry, nearest, conditions)
    if len(hits) < top_k and len(nearest) == n:
        candidates = _candidates(registry, conditions)
        if len(candidates) <= COMPARED_ONE_BY_ONE:
            return _meeting(registry, _compared(store, vector, candidates), conditions)[:top_k]
    while len(hits) < top_k and len(nearest) == n:
        n *= WIDEN
        nearest = store.query(vector, n)
        hits = _meeting(registry, nearest, conditions)
    return hits[:top_k]


def _meeting(
    registry: Registry, nearest: list[tuple[str, float]], conditions: list[ColumnElement[bool]]
) -> list[SearchHit]:
    """The objects of a search that meet conditions, in its order."""
    found: dict[str, dict[str, Any]] = {}
    with registry.reader() as session:
        for part in chunked([object_id for object_id, _ in nearest]):
            rows = session.execute(object_query().where(Object.object_id.in_(part), *conditions)).mappings()
            found.update((row["object_id"], dict(row)) for row in rows)
    return [SearchHit(found[object_id], similarity) for object_id, similarity in nearest if object_id in found]


def _candidates(registry: Registry, conditions: list[ColumnElement[bool]]) -> list[str]:
    """The ids of objects that meet conditions, as far as they are few enough to be compared one by one."""
    statement = select(Object.object_id).join(Category, Category.category_id == Object.category_id, isouter=True)
    with registry.reader() as session:
        return list(session.scalars(statement.where(*conditions).limit(COMPARED_ONE_BY_ONE + 1)))


def _compared(store: VectorStore, vector: NDArray[np.float32], object_ids: list[str]) -> list[tuple[str, float]]:
    """Ids and exact similarities of objects, most similar first."""
    vectors = store.get(object_ids)
    if not vectors:
        return []
    matrix = np.stack(list(vectors.values())).astype(np.float64)
    cosines = matrix @ vector / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector))
    similarities = np.clip(cosines, -1.0, 1.0).tolist()
    return sorted(zip(vectors, similarities, strict=True), key=lambda pair: (-pair[1], pair[0]))


def _as_vector(vector: NDArray[np.floating] | Sequence[float], store: VectorStore) -> NDArray[np.float32]:
    try:
        array = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError):
        raise UserError(f"the vector to search for must be {store.dimension} numbers") from None
    if array.shape != (store.dimension,):
        raise UserError(
            f"the vector to search for has shape {array.shape}, but embeddings of {store.version_id} have "
            f"({store.dimension},); embed it with the model of that version"
        )
    if not np.isfinite(array).all() or not array.any():
        raise UserError("the vector to search for must have finite numbers that are not all zero")
    return array


def _vector_of(registry: Registry, store: VectorStore, object_id: str) -> NDArray[np.float32]:
    """The newest vector of an object, which the store may not have yet."""
    newest = (
        select(EmbeddingOutbox.embedding)
        .where(EmbeddingOutbox.object_id == object_id, EmbeddingOutbox.version_id == store.version_id)
        .where(EmbeddingOutbox.operation == "upsert")
        .order_by(EmbeddingOutbox.id.desc())
        .limit(1)
    )
    with registry.reader() as session:
        blob = session.scalar(newest)
    if blob is None:
        raise UserError(
            f"object {object_id} has no embedding of version {store.version_id}; materialize the embeddings and "
            "objects of its batch"
        )
    return np.frombuffer(blob, dtype="<f4")


def _conditions(
    version_id: str, category: str | None, project: str | None, min_confidence: float | None
) -> list[ColumnElement[bool]]:
    # The index may still hold the vector of what an object's box showed before, or of an older model.
    newer = select(EmbeddingOutbox.id).where(
        EmbeddingOutbox.object_id == Object.object_id,
        EmbeddingOutbox.version_id == version_id,
        EmbeddingOutbox.status != "synced",
    )
    conditions = [
        Object.state == "active",
        Object.is_stale.is_(False),
        Object.embedding_version == version_id,
        ~newer.exists(),
    ]
    if category is not None:
        conditions.append(Category.name == category)
    if project is not None:
        conditions.append(Object.project_id == project)
    if min_confidence is not None:
        conditions.append(Object.confidence >= min_confidence)
    return conditions
