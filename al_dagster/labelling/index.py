"""Indexing: the outbox rows of a batch, pushed to the vector stores of their embedding versions."""

from collections import Counter
from collections.abc import Callable
from functools import partial

import pyarrow as pa

from al_dagster.core.progress import report
from al_dagster.core.schemas import VECTOR_INDEX
from al_dagster.core.settings import Settings
from al_dagster.core.verdict import Verdict
from al_dagster.labelling.stage import StageResult
from al_dagster.registry.database import Registry, open_registry
from al_dagster.registry.embedding_versions import list_versions
from al_dagster.registry.objects import count_objects, object_ids
from al_dagster.registry.outbox import outbox_counts, pending_versions, refill, sync_embeddings
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vectors.protocols import VectorStore


def index_vectors(registry: Registry, open_store: Callable[[str, int], VectorStore], batch_key: str) -> StageResult:
    """Push what the outbox holds for the objects of a batch, and say which of its objects the stores hold.

    Objects that a person touched may have a vector of an older version, and vectors of older versions are removed from
    their own store. Stale objects have none until it is made anew.

    Args:
        registry: holds the outbox.
        open_store: opens the store of an embedding version, given its id and dimension.
        batch_key: the batch.
    """
    counts = Counter[str]()
    rows = []
    for version in list_versions(registry, batch_key=batch_key):
        with open_store(version.version_id, version.dimension) as store:
            refill(registry, store)
            synced = sync_embeddings(registry, store, batch_key=batch_key, progress=partial(report, "vector_index"))
            expected = object_ids(registry, batch_key=batch_key, embedding_version=version.version_id, is_stale=False)
            held = store.present(expected)
        rows += [{"object_id": name, "version_id": version.version_id} for name in expected if name in held]
        counts.update(objects=len(expected), synced=synced.synced, failed=synced.failed, pending=synced.pending)
    rows.sort(key=lambda row: row["object_id"])
    return StageResult(
        pa.Table.from_pylist(rows, schema=VECTOR_INDEX),
        computed=counts["synced"],
        reused=len(rows) - min(counts["synced"], len(rows)),
        figures={name: counts[name] for name in ("objects", "synced", "failed", "pending")},
    )


def sync_all(settings: Settings) -> dict[str, int]:
    """Push everything that waits in the outbox to the stores; returns rows synced, failed and still pending."""
    with open_registry(settings.database_url) as registry:
        return sync_stores(registry, partial(ChromaStore, settings.chroma_dir))


def sync_stores(registry: Registry, open_store: Callable[[str, int], VectorStore]) -> dict[str, int]:
    """Push everything that waits in the outbox to the stores; see `sync_all`. Where nothing waits no store is opened.

    Args:
        registry: holds the outbox.
        open_store: opens the store of an embedding version, given its id and dimension.
    """
    totals = {"synced": 0, "failed": 0, "pending": 0}
    waiting = pending_versions(registry)
    for version in list_versions(registry):
        if version.version_id not in waiting:
            continue
        with open_store(version.version_id, version.dimension) as store:
            refill(registry, store)
            done = sync_embeddings(registry, store, progress=partial(report, version.version_id))
        for name in totals:
            totals[name] += getattr(done, name)
    return totals


def outbox_drained(registry: Registry, batch_key: str, indexed: int) -> Verdict:
    """Nothing of a batch waits in the outbox or failed, and the stores held its active objects that are not stale.

    Args:
        registry: holds objects and outbox.
        batch_key: the batch.
        indexed: how many objects of the batch the stores held after its synchronisation.
    """
    waiting = outbox_counts(registry, batch_key=batch_key)
    objects = count_objects(registry, batch_key=batch_key, is_stale=False)
    unsynced = waiting["pending"] + waiting["failed"]
    return Verdict(unsynced == 0 and indexed == objects, {"objects": objects, "indexed": indexed, **waiting})
