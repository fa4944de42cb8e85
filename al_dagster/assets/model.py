"""``trained_model`` and ``evaluation``: a YOLO model of a dataset, and how good it is on images it has not seen."""

from typing import TYPE_CHECKING

import dagster as dg

from al_dagster.assets.dataset import DATASET_ID, VersionConfig, dataset_export
from al_dagster.assets.metadata import picture, table_of
from al_dagster.assets.partitions import datasets
from al_dagster.resources import ExportsResource, RegistryResource, TrackingResource

if TYPE_CHECKING:
    from al_dagster.training.train import Progress

LOG_EVERY_EPOCHS = 5
MLFLOW_RUN_TAG = "al.mlflow_run_id"
"""Tag of a Dagster run; the MLflow run carries the Dagster run's id in ``al.dagster_run_id``."""


@dg.asset(
    partitions_def=datasets,
    deps=[dataset_export],
    group_name="model",
    pool="gpu",
    kinds={"ultralytics", "mlflow"},
    code_version="1",
)
def trained_model(
    context: dg.AssetExecutionContext,
    config: VersionConfig,
    registry: RegistryResource,
    exports: ExportsResource,
    tracking: TrackingResource,
) -> dg.MaterializeResult:
    """A YOLO model trained on the exported dataset in a process of its own, registered in MLflow."""
    from al_dagster.core.progress import report
    from al_dagster.training.train import train

    def tell(progress: "Progress") -> None:
        report("training", progress.epoch, progress.epochs)
        if progress.epoch % LOG_EVERY_EPOCHS == 0 or progress.epoch == progress.epochs:
            figures = {**progress.losses, **progress.metrics}
            shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            context.log.info(f"epoch {progress.epoch} of {progress.epochs}: {shown}")

    exported, training = exports.exported(registry.open(), config.of(context.partition_key))
    model = train(
        exported,
        training,
        tracking.open(),
        tracking.work_dir,
        run_tags={"al.dagster_run_id": context.run_id},
        on_progress=tell,
    )
    context.instance.add_run_tags(context.run_id, {MLFLOW_RUN_TAG: model.mlflow_run_id})
    curves = {name: round(value, 4) for name, value in sorted(model.metrics.items()) if not name.startswith("test_")}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(model.fingerprint),
        metadata={
            DATASET_ID: exported.dataset_id,
            "version": exported.version,
            "model": f"{model.model_name}/{model.model_version}",
            "mlflow_run_id": model.mlflow_run_id,
            "weights": dg.MetadataValue.path(str(model.weights_path)),
            "reused": model.reused,
            **curves,
        },
    )


@dg.asset(
    partitions_def=datasets,
    deps=[trained_model],
    group_name="model",
    pool="gpu",
    kinds={"ultralytics", "mlflow"},
    code_version="1",
)
def evaluation(
    context: dg.AssetExecutionContext,
    config: VersionConfig,
    registry: RegistryResource,
    exports: ExportsResource,
    tracking: TrackingResource,
) -> dg.MaterializeResult:
    """COCO mAP, figures of each class and the confusion matrix of the model on the test split."""
    from al_dagster.core.progress import report
    from al_dagster.training.evaluate import evaluate
    from al_dagster.training.train import standing_model

    exported, training = exports.exported(registry.open(), config.of(context.partition_key))
    model = standing_model(exported, training, tracking.open())
    found = evaluate(
        exported,
        model.weights_path,
        training,
        tracking.work_dir,
        tracking=tracking.open(),
        mlflow_run_id=model.mlflow_run_id,
        on_progress=lambda done, total: report("evaluation", done, total),
    )
    return dg.MaterializeResult(
        metadata={
            DATASET_ID: exported.dataset_id,
            "version": exported.version,
            "model": f"{model.model_name}/{model.model_version}",
            "mlflow_run_id": model.mlflow_run_id,
            "weights": dg.MetadataValue.path(str(model.weights_path)),
            "split": found.split,
            "note": found.note or "none",
            "images": found.images,
            "objects": found.objects,
            **{name: round(value, 4) for name, value in found.metrics.items()},
            "per_class": table_of([vars(row) for row in found.per_class]),
            **{name: picture(png, "png") for name, png in found.plots.items()},
        }
    )
