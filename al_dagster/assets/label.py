"""``detections``, ``masks``, ``embeddings`` and ``classifications``: what the models say of the frames of a batch.

They share the pool ``gpu``, so that runs queue for the accelerator.
"""

from typing import TYPE_CHECKING

import dagster as dg

from al_dagster.assets.batch import BATCH, each_batch
from al_dagster.core.ids import batch_project
from al_dagster.resources import ImagesResource, LakeIOManager, ModelsResource, RegistryResource
from al_dagster.resources.lake import NewTables, StoredTables

if TYPE_CHECKING:
    from al_dagster.labelling.stage import StageResult

Lake = dg.ResourceParam[LakeIOManager]


@dg.asset(**BATCH, group_name="label", pool="gpu", kinds={"opencv", "pytorch", "parquet"}, code_version="1")
def detections(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    models: ModelsResource,
    images: ImagesResource,
    lake: Lake,
    frames: StoredTables,
) -> NewTables:
    """Boxes, labels and confidence of the objects in every frame."""
    from al_dagster.labelling.detect import detect
    from al_dagster.labelling.sheets import detection_sheet

    def stage(key: str) -> "StageResult":
        project = registry.project(batch_project(key))
        result = detect(
            frames[key],
            lake.lake.previous("detections", key),
            detector=models.of(project).detector,
            project=project,
            images=images.loader(),
        )
        return detection_sheet(result, frames[key], images.loader())

    return each_batch(context, stage)


@dg.asset(**BATCH, group_name="label", pool="gpu", kinds={"opencv", "pytorch", "parquet"}, code_version="1")
def masks(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    models: ModelsResource,
    images: ImagesResource,
    lake: Lake,
    frames: StoredTables,
    detections: StoredTables,
) -> NewTables:
    """A mask for every box: a PNG in the mask store, polygons, area and score."""
    from al_dagster.labelling.masks import restore_masks
    from al_dagster.labelling.segment import segment

    def stage(key: str) -> "StageResult":
        restore_masks(registry.open(), registry.masks(), frames[key])
        return segment(
            frames[key],
            detections[key],
            lake.lake.previous("masks", key),
            segmenter=models.of(registry.project(batch_project(key))).segmenter,
            masks=registry.masks(),
            images=images.loader(),
        )

    return each_batch(context, stage)


@dg.asset(**BATCH, group_name="label", pool="gpu", kinds={"opencv", "pytorch", "parquet"}, code_version="1")
def embeddings(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    models: ModelsResource,
    images: ImagesResource,
    lake: Lake,
    frames: StoredTables,
    detections: StoredTables,
    masks: StoredTables,
) -> NewTables:
    """A vector for every object, with the version of the embedder that made it."""
    from al_dagster.labelling.embed import embed, know_version

    def stage(key: str) -> "StageResult":
        embedder = models.of(registry.project(batch_project(key))).embedder
        know_version(registry.open(), embedder)
        return embed(
            frames[key],
            detections[key],
            masks[key],
            lake.lake.previous("embeddings", key),
            embedder=embedder,
            masks=registry.masks(),
            images=images.loader(),
        )

    return each_batch(context, stage)


@dg.asset(**BATCH, group_name="label", pool="gpu", kinds={"numpy", "parquet"}, code_version="1")
def classifications(
    context: dg.AssetExecutionContext,
    registry: RegistryResource,
    models: ModelsResource,
    images: ImagesResource,
    lake: Lake,
    frames: StoredTables,
    detections: StoredTables,
    masks: StoredTables,
    embeddings: StoredTables,
) -> NewTables:
    """The few-shot label, score and margin of every object, or "Unknown"; empty without a support set."""
    from al_dagster.labelling.classify import classify_objects
    from al_dagster.labelling.sheets import label_sheet

    def stage(key: str) -> "StageResult":
        project = registry.project(batch_project(key))
        result = classify_objects(
            detections[key],
            masks[key],
            embeddings[key],
            lake.lake.previous("classifications", key),
            registry=registry.open(),
            project=project,
            models=models.of(project),
            masks=registry.masks(),
            max_pixels=images.max_pixels,
        )
        return label_sheet(result, frames[key], detections[key], masks[key], project, registry.masks(), images.loader())

    return each_batch(context, stage)
