"""``sources`` and ``frames``: the files of a batch, checked and registered."""

from typing import TYPE_CHECKING

import dagster as dg

from al_dagster.assets.batch import BATCH, each_batch
from al_dagster.resources import ImagesResource, InboxResource, LakeIOManager, RegistryResource
from al_dagster.resources.lake import NewTables, StoredTables

if TYPE_CHECKING:
    from al_dagster.labelling.stage import StageResult


@dg.asset(**BATCH, group_name="ingest", kinds={"python", "parquet"}, code_version="1")
def sources(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    images: ImagesResource,
    inbox: InboxResource,
    lake: dg.ResourceParam[LakeIOManager],
) -> NewTables:
    """One row a file of the batch: id, size, hashes; a file that cannot be read is quarantined with its reason."""
    from al_dagster.labelling.ingest import ingest
    from al_dagster.registry.batches import batch_manifest

    def stage(key: str) -> "StageResult":
        manifest = batch_manifest(registry.open(), key)
        return ingest(
            registry.open(),
            key,
            manifest,
            lake.lake.previous("sources", key),
            images=images.loader(),
            root=inbox.bounds_of(registry.open(), key),
            max_pixels=images.max_pixels,
            duplicate_distance=registry.duplicate_distance,
        )

    return each_batch(context, stage)


@dg.asset(**BATCH, group_name="ingest", kinds={"python", "parquet"}, code_version="1")
def frames(context: dg.AssetExecutionContext, registry: RegistryResource, sources: StoredTables) -> NewTables:
    """One row a frame to label; an image is its own single frame."""
    from al_dagster.labelling.ingest import frame

    return each_batch(context, lambda key: frame(registry.open(), sources[key]))
