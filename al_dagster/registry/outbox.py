"""The outbox: carries the embedding changes that the registry has committed over to the vector store.

Of the rows of an object and version only the newest counts; applying it settles the older ones. Rows are marked after
the store has taken them, and both upserts and deletes may be applied again, so that a process killed in between is
made good by the next one.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from sqlalchemy import Exists, Row, Select, Update, bindparam, func, insert, select, update
from sqlalchemy.orm import Session, aliased

from al_dagster.core.errors import UserError
from al_dagster.core.failpoints import reach
from al_dagster.registry.base import UtcNow
from al_dagster.registry.database import Registry
from al_dagster.registry.embedding_versions import list_versions
from al_dagster.registry.tables import EmbeddingOutbox, Object
from al_dagster.vectors.chroma import has_index
from al_dagster.vectors.protocols import VectorStore

MAX_TRIES = 3
ERROR_LENGTH = 500
PAGE = 1000
STATUSES = ("pending", "synced", "failed")

log = structlog.get_logger(__name__)
# Held from reading rows to marking them: a thread must not apply an upsert that it has read before another thread
# applied the delete that follows. Between processes the lock of the vector store does the same.
applying = threading.RLock()


@dataclass(frozen=True)
class SyncReport:
    """What came of a synchronisation.

    Attributes:
        synced: rows that the store has taken, with the older rows that they replace.
        failed: rows given up, having been tried three times.
        pending: rows still to be tried: those that failed in this call, and those that were added meanwhile.
    """

    synced: int
    failed: int
    pending: int


def sync_embeddings(
    registry: Registry,
    store: VectorStore,
    *,
    chunk: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> SyncReport:
    """Apply the pending changes of the store's embedding version, each once, oldest first.

    A change that the store refuses stays pending with its error; the third refusal makes it failed. It does not hold
    up the others of its chunk.

    Args:
        registry: whose changes are applied.
        store: open vector store.
        chunk: how many objects are written and marked at a time.
        progress: called after each chunk with how many objects are done, and of how many.
    """
    pending = _pending(store.version_id)
    count = pending.with_only_columns(func.count()).order_by(None)
    with registry.reader() as session:
        total = session.scalar(count) or 0
    done = synced = failed = after = 0
    while True:
        with applying:
            with registry.reader() as session:
                rows = session.execute(pending.where(EmbeddingOutbox.id > after).limit(chunk)).all()
            if not rows:
                break
            reach("vectors not written")
            refused = _apply(store, rows)
            reach("vectors written")
            counts = _mark(registry, store.version_id, rows, refused)
        synced, failed, done, after = synced + counts[0], failed + counts[1], done + len(rows), rows[-1].id
        if progress:
            progress(done, max(done, total))
    with registry.reader() as session:
        left = session.scalar(count) or 0
    log.info("embeddings synced", version=store.version_id, synced=synced, failed=failed, pending=left)
    return SyncReport(synced, failed, left)


def outbox_counts(registry: Registry, *, batch_key: str | None = None) -> dict[str, int]:
    """How many outbox rows, of all objects or of those of a batch, are pending, synced and failed."""
    statement = select(EmbeddingOutbox.status, func.count().label("rows")).group_by(EmbeddingOutbox.status)
    if batch_key is not None:
        statement = statement.join(Object, Object.object_id == EmbeddingOutbox.object_id).where(
            Object.batch_key == batch_key
        )
    with registry.reader() as session:
        return dict.fromkeys(STATUSES, 0) | {row.status: row.rows for row in session.execute(statement)}


def pending_versions(registry: Registry) -> set[str]:
    """The embedding versions whose stores a change waits for."""
    waiting = select(EmbeddingOutbox.version_id).where(EmbeddingOutbox.status == "pending").distinct()
    with registry.reader() as session:
        return set(session.scalars(waiting))


def _pending(version_id: str) -> Select[tuple[int, str, str, bytes | None, int]]:
    return (
        select(
            EmbeddingOutbox.id,
            EmbeddingOutbox.object_id,
            EmbeddingOutbox.operation,
            EmbeddingOutbox.embedding,
            EmbeddingOutbox.retry_count,
        )
        .where(EmbeddingOutbox.status == "pending", EmbeddingOutbox.version_id == version_id)
        .where(~_replaced(version_id))
        .order_by(EmbeddingOutbox.id)
    )


def _replaced(version_id: str) -> Exists:
    """Whether a row of this version is followed by a newer one of its object."""
    newer = aliased(EmbeddingOutbox)
    return (
        select(newer.id)
        .where(newer.object_id == EmbeddingOutbox.object_id, newer.version_id == version_id)
        .where(newer.id > EmbeddingOutbox.id)
        .correlate(EmbeddingOutbox)
        .exists()
    )


def _apply(store: VectorStore, rows: Sequence[Row]) -> dict[int, str]:
    """Apply rows together; if that fails, by halves, down to the rows that are refused: their ids and the errors."""
    try:
        deletes = [row.object_id for row in rows if row.operation == "delete"]
        upserts = [row for row in rows if row.operation == "upsert"]
        if upserts:
            store.upsert(
                [row.object_id for row in upserts], np.stack([_vector(row, store.dimension) for row in upserts])
            )
        if deletes:
            store.delete(deletes)
    except UserError:
        raise  # The disk is full, or the store gone: no row is to blame.
    except Exception as error:
        if len(rows) == 1:
            message = f"{type(error).__name__}: {error}"
            log.warning("embedding refused", object_id=rows[0].object_id, error=message)
            return {rows[0].id: message[:ERROR_LENGTH]}
        middle = len(rows) // 2
        return _apply(store, rows[:middle]) | _apply(store, rows[middle:])
    return {}


def _vector(row: Row, dimension: int) -> np.ndarray:
    vector = np.frombuffer(row.embedding or b"", dtype=np.uint8)
    if vector.size != 4 * dimension:
        raise ValueError(f"expected an embedding of {dimension} float32 values, got {vector.size} bytes")
    return vector.view(np.float32)


def _mark(registry: Registry, version_id: str, rows: Sequence[Row], refused: dict[int, str]) -> tuple[int, int]:
    """Mark rows and the older ones that they replace; how many are synced now, and how many failed."""
    taken = [{"object": row.object_id, "newest": row.id} for row in rows if row.id not in refused]
    tries = [
        {"object": row.object_id, "newest": row.id, "tries": row.retry_count + 1, "error": refused[row.id]}
        for row in rows
        if row.id in refused
    ]
    settled = (
        update(EmbeddingOutbox)
        .where(EmbeddingOutbox.object_id == bindparam("object"), EmbeddingOutbox.version_id == version_id)
        .where(EmbeddingOutbox.id <= bindparam("newest"), EmbeddingOutbox.status != "synced")
    )
    tried: dict[str, Any] = {"retry_count": bindparam("tries"), "error_message": bindparam("error")}
    synced = settled.values(status="synced", synced_at=UtcNow(), error_message=None)
    failed = settled.values(status="failed", **tried)
    again = update(EmbeddingOutbox).where(EmbeddingOutbox.id == bindparam("newest")).values(**tried)
    with registry.session() as session:
        _execute_many(session, again, [values for values in tries if values["tries"] < MAX_TRIES])
        return (
            _execute_many(session, synced, taken),
            _execute_many(session, failed, [values for values in tries if values["tries"] >= MAX_TRIES]),
        )


def _execute_many(session: Session, statement: Update, values: list[dict[str, Any]]) -> int:
    # By the connection: an ORM session would take an update with many parameter sets for one by primary key.
    return session.connection().execute(statement, values).rowcount if values else 0


@dataclass(frozen=True)
class ReconcileReport:
    """What a comparison of the registry with its vector stores found and did, over all embedding versions.

    Attributes:
        missing_in_store: objects whose vector the store had lost.
        missing_in_registry: ids in the store that no active object has whose vector is of this version and not stale.
        retried: rows that had failed and were tried anew.
        repaired: how many of those missing in the store were written, and in the registry, deleted.
        unsynced: objects that the store still refuses.
    """

    missing_in_store: int = 0
    missing_in_registry: int = 0
    retried: int = 0
    repaired: int = 0
    unsynced: int = 0

    def __add__(self, other: "ReconcileReport") -> "ReconcileReport":
        return ReconcileReport(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def reconcile(
    registry: Registry,
    store_for: Callable[[str, int], VectorStore],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> ReconcileReport:
    """Make every vector store hold the vectors of exactly the active objects: write what is missing, delete the rest.

    Failed changes are tried anew. A vector is taken from the object's newest upsert in the outbox.

    Args:
        registry: what the stores must agree with.
        store_for: opens the store of an embedding version, given its name and dimension; it is closed afterwards.
        progress: called with how many objects are written, and of how many.
    """
    report = ReconcileReport()
    for version in list_versions(registry):
        with store_for(version.version_id, version.dimension) as store:
            report += _reconcile_version(registry, store, progress)
    log.info("registry and vector store reconciled", **asdict(report))
    return report


def refill(registry: Registry, store: VectorStore) -> bool:
    """Fill a store that is empty though vectors were written to it, as one whose folder was lost; whether it was so."""
    if store.count() or not has_synced(registry, store.version_id):
        return False
    report = _reconcile_version(registry, store, None)
    log.warning("empty vector store filled from the registry", version=store.version_id, **asdict(report))
    return True


def has_synced(registry: Registry, version_id: str | None = None) -> bool:
    """Whether a store must hold vectors: of some active object one was written, of this version or of any."""
    written = (
        select(EmbeddingOutbox.id)
        .join(Object, Object.object_id == EmbeddingOutbox.object_id)
        .where(EmbeddingOutbox.status == "synced", EmbeddingOutbox.operation == "upsert")
        .where(Object.state == "active", Object.is_stale.is_(False))
        .where(Object.embedding_version == EmbeddingOutbox.version_id)
    )
    if version_id is not None:
        written = written.where(EmbeddingOutbox.version_id == version_id)
    with registry.reader() as session:
        return session.scalar(written.limit(1)) is not None


def lost_index(registry: Registry, index: Path) -> str | None:
    """A sentence if the folder of the vector index holds none though vectors were written to it."""
    if has_index(index) or not has_synced(registry):
        return None
    return f"the vector index in {index} is gone; `al sync --reconcile` fills it from the registry"


def _reconcile_version(
    registry: Registry, store: VectorStore, progress: Callable[[int, int], None] | None
) -> ReconcileReport:
    version_id = store.version_id
    retry = update(EmbeddingOutbox).where(EmbeddingOutbox.version_id == version_id, EmbeddingOutbox.status == "failed")
    with registry.session() as session:
        retried = session.connection().execute(retry.values(status="pending", retry_count=0)).rowcount
    unsynced = sync_embeddings(registry, store, progress=progress).pending
    expected = (
        select(EmbeddingOutbox.object_id)
        .join(Object, Object.object_id == EmbeddingOutbox.object_id)
        .where(EmbeddingOutbox.version_id == version_id, EmbeddingOutbox.operation == "upsert")
        .where(Object.state == "active", Object.is_stale.is_(False), Object.embedding_version == version_id)
    )
    with applying:
        stored = set(store.ids())
        with registry.reader() as session:
            wanted = set(session.scalars(expected))
            refused = set(session.scalars(_pending(version_id).with_only_columns(EmbeddingOutbox.object_id)))
        strangers = sorted(stored - wanted)
        for start in range(0, len(strangers), PAGE):
            store.delete(strangers[start : start + PAGE])
    missing = sorted(wanted - stored - refused)
    repaired = len(strangers)
    if missing:
        for start in range(0, len(missing), PAGE):
            _queue_again(registry, version_id, missing[start : start + PAGE])
        unsynced = sync_embeddings(registry, store, progress=progress).pending
        repaired += len(set(missing).intersection(store.ids()))
    return ReconcileReport(len(missing), len(strangers), retried, repaired, unsynced)


def _queue_again(registry: Registry, version_id: str, object_ids: list[str]) -> None:
    """Make the newest upsert of objects pending; where a delete stands after it, queue it once more behind that."""
    newest_upserts = (
        select(func.max(EmbeddingOutbox.id))
        .where(EmbeddingOutbox.version_id == version_id, EmbeddingOutbox.operation == "upsert")
        .where(EmbeddingOutbox.object_id.in_(object_ids))
        .group_by(EmbeddingOutbox.object_id)
    )
    replaced = _replaced(version_id)
    fields = [getattr(EmbeddingOutbox, name) for name in ("object_id", "version_id", "operation", "embedding")]
    with registry.session() as session:
        upserts = session.scalars(newest_upserts).all()
        session.execute(
            insert(EmbeddingOutbox).from_select(
                fields, select(*fields).where(EmbeddingOutbox.id.in_(upserts), replaced)
            )
        )
        session.execute(
            update(EmbeddingOutbox)
            .where(EmbeddingOutbox.id.in_(upserts), ~replaced)
            .values(status="pending", retry_count=0, synced_at=None)
        )
