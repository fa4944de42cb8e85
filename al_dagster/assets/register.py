"""``objects`` and ``vector_index``: the labels of a batch in the registry, and their vectors in the store."""

from typing import TYPE_CHECKING

import dagster as dg

from al_dagster.assets.batch import BATCH, each_batch
from al_dagster.core.ids import batch_project
from al_dagster.resources import ModelsResource, RegistryResource, VectorStoreResource
from al_dagster.resources.lake import NewTables, StoredTables

if TYPE_CHECKING:
    from al_dagster.labelling.stage import StageResult


@dg.asset(**BATCH, group_name="register", kinds={"sqlite", "parquet"}, code_version="1")
def objects(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    models: ModelsResource,
    frames: StoredTables,
    detections: StoredTables,
    masks: StoredTables,
    embeddings: StoredTables,
    classifications: StoredTables,
) -> NewTables:
    """The objects of the batch, registered with their outbox rows in one transaction; human edits stay."""
    from al_dagster.labelling.register import register

    def stage(key: str) -> "StageResult":
        project = registry.project(batch_project(key))
        profile = models.of(project)
        return register(
            registry.open(),
            batch_key=key,
            run_id=context.run_id,
            project=project,
            models=profile,
            frames=frames[key],
            detections=detections[key],
            masks=masks[key],
            embeddings=embeddings[key],
            classifications=classifications[key],
        )

    return each_batch(context, stage)


@dg.asset(**BATCH, group_name="register", pool="vectors", kinds={"chroma"}, code_version="1")
def vector_index(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    vectors: VectorStoreResource,
    objects: StoredTables,
) -> NewTables:
    """What waits in the outbox, pushed to the vector store; one process writes to it at a time."""
    from al_dagster.labelling.index import index_vectors
    from al_dagster.registry.batches import mark_labelled

    def stage(key: str) -> "StageResult":
        objects[key]  # without it there is nothing to index yet, which is no empty index
        return index_vectors(registry.open(), vectors.store, key)

    return each_batch(context, stage, lambda key: mark_labelled(registry.open(), key))
