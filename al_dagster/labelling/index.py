"""Indexing: what waits in the outbox, pushed to the vector stores of its embedding versions."""

from collections import Counter
from collections.abc import Callable, Collection
from functools import partial

import pyarrow as pa

from al_dagster.core.progress import report
from al_dagster.core.schemas import VECTOR_INDEX
from al_dagster.core.settings import Settings
from al_dagster.core.verdict import Verdict
from al_dagster.labelling.stage import StageResult
from al_dagster.registry.database import Registry, open_registry
from al_dagster.registry.embedding_versions import VersionRecord, list_versions
from al_dagster.registry.objects import object_ids
from al_dagster.registry.outbox import outbox_counts, pending_versions, refill, sync_embeddings
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vectors.protocols import VectorStore


def index_vectors(registry: Registry, open_store: Callable[[str, int], VectorStore], batch_key: str) -> StageResult:
    """Push what the outbox holds, and say which objects of a batch the stores hold.

    What waits of other batches is pushed too, such as what people changed since, of any version. Objects that a person
    touched may have a vector of an older version, and vectors of older versions are removed from their own store. Stale
    objects have none until it is made anew.

    Args:
        registry: holds the outbox.
        open_store: opens the store of an embedding version, given its id and dimension.
        batch_key: the batch.
    """
    counts = Counter[str]()
    rows = []
    of_batch = {version.version_id for version in list_versions(registry, batch_key=batch_key)}
    for version in _versions(registry, of_batch | pending_versions(registry)):
        with open_store(version.version_id, version.dimension) as store:
            refill(registry, store)
            synced = sync_embeddings(registry, store, progress=partial(report, "vector_index"))
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
    for version in _versions(registry, pending_versions(registry)):
        with open_store(version.version_id, version.dimension) as store:
            refill(registry, store)
            done = sync_embeddings(registry, store, progress=partial(report, version.version_id))
        for name in totals:
            totals[name] += getattr(done, name)
    return totals


def outbox_drained(registry: Registry, batch_key: str, indexed: pa.Table) -> Verdict:
    """Nothing of a batch waits in the outbox or failed, and the stores held its active objects that are not stale.

    Objects that the batch has no more, since a person deleted them or another batch shows them now, are no matter.

    Args:
        registry: holds objects and outbox.
        batch_key: the batch.
        indexed: rows of ``core.schemas.VECTOR_INDEX``: what the stores held after its synchronisation.
    """
    waiting = outbox_counts(registry, batch_key=batch_key)
    objects = object_ids(registry, batch_key=batch_key, is_stale=False)
    missing = set(objects).difference(indexed["object_id"].to_pylist())
    unsynced = waiting["pending"] + waiting["failed"]
    figures = {"objects": len(objects), "indexed": len(objects) - len(missing), **waiting}
    return Verdict(unsynced == 0 and not missing, figures)


def _versions(registry: Registry, names: Collection[str]) -> list[VersionRecord]:
    return [version for version in list_versions(registry) if version.version_id in names]
