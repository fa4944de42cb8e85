"""The jobs: the chain of a batch, calibration, a dataset, a model, what follows people's edits, and repair."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from al_dagster.resources import ImagesResource, RegistryResource, VectorStoreResource

Job = dg.JobDefinition | UnresolvedAssetJobDefinition

label_batch = dg.define_asset_job(
    "label_batch",
    selection=["sources", "frames", "detections", "masks", "embeddings", "classifications", "objects", "vector_index"],
    description="Label the files of a batch, register the objects and index their vectors.",
)

freeze_dataset = dg.define_asset_job(
    "freeze_dataset", selection=["dataset"], description="Freeze a dataset's selection and split."
)

build_dataset = dg.define_asset_job(
    "build_dataset",
    selection=["dataset", "dataset_export"],
    description="Freeze a dataset's selection and split, and export it.",
)

export_version = dg.define_asset_job(
    "export_version", selection=["dataset_export"], description="Export a version of a dataset that is frozen already."
)

train_version = dg.define_asset_job(
    "train_version",
    selection=["dataset_export", "trained_model", "evaluation"],
    description="Export a version of a dataset that is frozen already, train a model on it and evaluate it.",
)

build_and_train = dg.define_asset_job(
    "build_and_train",
    selection=["dataset", "dataset_export", "trained_model", "evaluation"],
    description="Freeze and export a dataset, train a model on it and evaluate it.",
)

evaluate_model = dg.define_asset_job(
    "evaluate_model",
    selection=["evaluation"],
    description="Evaluate the model that stands of the exported dataset; nothing is trained.",
)

calibrate = dg.define_asset_job(
    "calibrate", selection=["calibration"], description="Calibrate the detectors of a project on its reviews."
)


@dg.op(pool="vectors")
def reconcile_vector_store(
    context: dg.OpExecutionContext, registry: RegistryResource, vectors: VectorStoreResource
) -> dict[str, int]:
    """Compare registry and vector store both ways, and repair what differs."""
    from dataclasses import asdict

    from al_dagster.registry.outbox import reconcile

    figures = asdict(reconcile(registry.open(), vectors.store))
    context.add_output_metadata(figures)
    return figures


@dg.job(description="Compare registry and vector store both ways, and repair what differs.")
def reconcile_vectors() -> None:
    """The reconciliation as a job, for its schedule and ``al sync --reconcile``."""
    reconcile_vector_store()


class RefreshConfig(dg.Config):
    """What is refreshed."""

    project: str = Field(description="The project whose stale objects get mask and vector.")


@dg.op(pool="gpu")
def refresh_stale_objects(
    context: dg.OpExecutionContext, config: RefreshConfig, registry: RegistryResource, images: ImagesResource
) -> dict[str, int]:
    """Make anew the masks and vectors of the objects whose box a person moved."""
    from al_dagster.core.settings import load_settings
    from al_dagster.labelling.models import environment, object_models
    from al_dagster.labelling.refresh import refresh_objects

    project = registry.project(config.project)
    with object_models(project, environment(load_settings())) as models:
        done = refresh_objects(registry.open(), project, models, registry.masks(), max_pixels=images.max_pixels)
    for object_id, reason in done.unreadable.items():
        context.log.warning(f"{object_id} still waits: {reason}")
    figures = {"refreshed": done.refreshed, "changed": done.changed, "unreadable": len(done.unreadable)}
    context.add_output_metadata(figures)
    return figures


@dg.op(pool="vectors")
def sync_vector_stores(
    context: dg.OpExecutionContext, registry: RegistryResource, vectors: VectorStoreResource, after: dict[str, int]
) -> dict[str, int]:
    """Push what waits in the outbox to the vector stores."""
    from al_dagster.labelling.index import sync_stores

    figures = sync_stores(registry.open(), vectors.store)
    context.add_output_metadata(figures)
    return figures


@dg.job(description="Make anew the masks and vectors of the objects whose box a person moved, and index the vectors.")
def refresh() -> None:
    """The refresh of a project as a job, for its sensor."""
    sync_vector_stores(refresh_stale_objects())


all_jobs: list[Job] = [
    label_batch,
    calibrate,
    freeze_dataset,
    build_dataset,
    export_version,
    build_and_train,
    train_version,
    evaluate_model,
    refresh,
    reconcile_vectors,
]
