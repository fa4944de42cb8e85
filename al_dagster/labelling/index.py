"""Indexing: the outbox rows of a batch, pushed to the vector store of their embedding version."""

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
from al_dagster.registry.outbox import outbox_counts, sync_embeddings
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vectors.protocols import VectorStore
from al_dagster.vision.protocols import Embedder


def index_vectors(
    registry: Registry, open_store: Callable[[str, int], VectorStore], batch_key: str, embedder: Embedder
) -> StageResult:
    """Push what the outbox holds for the objects of a batch, and say which of its objects the store holds.

    Args:
        registry: holds the outbox.
        open_store: opens the store of an embedding version, given its id and dimension.
        batch_key: the batch.
        embedder: whose version the batch was embedded with.
    """
    with open_store(embedder.version_id, embedder.dimension) as store:
        synced = sync_embeddings(registry, store, batch_key=batch_key, progress=partial(report, "vector_index"))
        objects = object_ids(registry, batch_key=batch_key)
        held = store.present(objects)
    rows = [{"object_id": object_id, "version_id": embedder.version_id} for object_id in objects if object_id in held]
    return StageResult(
        pa.Table.from_pylist(rows, schema=VECTOR_INDEX),
        computed=synced.synced,
        reused=len(rows) - min(synced.synced, len(rows)),
        figures={"objects": len(objects), "synced": synced.synced, "failed": synced.failed, "pending": synced.pending},
    )


def sync_all(settings: Settings) -> dict[str, int]:
    """Push everything that waits in the outbox to the stores; returns rows synced, failed and still pending."""
    totals = {"synced": 0, "failed": 0, "pending": 0}
    with open_registry(settings.database_url) as registry:
        for version in list_versions(registry):
            with ChromaStore(settings.chroma_dir, version.version_id, version.dimension) as store:
                done = sync_embeddings(registry, store, progress=partial(report, version.version_id))
            for name in totals:
                totals[name] += getattr(done, name)
    return totals


def outbox_drained(registry: Registry, batch_key: str, indexed: int) -> Verdict:
    """Nothing of a batch waits in the outbox or failed, and the store held every active object of it.

    Args:
        registry: holds objects and outbox.
        batch_key: the batch.
        indexed: how many objects of the batch the store held after its synchronisation.
    """
    waiting = outbox_counts(registry, batch_key=batch_key)
    objects = count_objects(registry, batch_key=batch_key)
    unsynced = waiting["pending"] + waiting["failed"]
    return Verdict(unsynced == 0 and indexed == objects, {"objects": objects, "indexed": indexed, **waiting})
