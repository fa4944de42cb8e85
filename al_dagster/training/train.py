"""Train a YOLO model on an exported dataset, once."""

import importlib.metadata
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from al_dagster.core.errors import UserError
from al_dagster.core.fingerprints import fingerprint
from al_dagster.training.config import TrainingConfig
from al_dagster.training.dataset import ExportedDataset
from al_dagster.training.evaluate import choose_split
from al_dagster.training.models import check_model, model_argument
from al_dagster.training.staging import stage
from al_dagster.training.tracking import FINGERPRINT_TAG, Tracking
from al_dagster.yolo.process import require_train_extra, run_worker

CODE_VERSION = "1"
"""Changes when the same inputs would train another model."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Progress:
    """Where a training stands after an epoch.

    Args:
        epoch: epochs done, from 1.
        epochs: epochs to do.
        losses: mean training losses of the epoch: ``box_loss``, ``cls_loss``, ``dfl_loss``.
        metrics: ``precision``, ``recall``, ``map50``, ``map50_95`` on the validation split; empty if not measured.
        learning_rate: at the end of the epoch.
        seconds: since the start of the training process's work.
    """

    epoch: int
    epochs: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainedModel:
    """A trained model and where it is kept.

    Args:
        mlflow_run_id: the run that trained it.
        model_name: its name in the model registry: the dataset's.
        model_version: its version there.
        weights_path: the weights file.
        metrics: the run's last metrics, by name.
        fingerprint: what it was made from.
        reused: whether it stood already and nothing was trained.
    """

    mlflow_run_id: str
    model_name: str
    model_version: str
    weights_path: Path
    metrics: Mapping[str, float]
    fingerprint: str
    reused: bool


def train(
    dataset: ExportedDataset,
    config: TrainingConfig,
    tracking: Tracking,
    work_dir: Path,
    run_tags: Mapping[str, str] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> TrainedModel:
    """Train a model, record it in MLflow and register it; or use the one that the same inputs have made before.

    Two processes that ask for the same model train it once: the second waits for the first.

    Args:
        dataset: what to train on.
        config: how.
        tracking: where it is recorded.
        work_dir: folder for scratch files, which are removed at the end.
        run_tags: tags for a new run, such as the id of the Dagster run.
        on_progress: called after each epoch.

    Raises:
        UserError: the extra, the model's weights or the dataset's train split is missing, no split has objects to
            evaluate the model on, or memory ran out.
        YoloError: the training process failed.
    """
    require_train_extra()
    made_from = _made_from(dataset, config)
    work_dir.mkdir(parents=True, exist_ok=True)
    with tracking.lock(made_from):
        standing = tracking.finished_run(made_from)
        if standing is not None:
            return _trained(tracking, standing, dataset.name, made_from, reused=True)
        for run_id in tracking.close_abandoned(made_from):
            logger.warning("a training was cut off, starting again", mlflow_run_id=run_id)
        tags = {**(run_tags or {}), FINGERPRINT_TAG: made_from}
        run_id = _train(dataset, config, tracking, work_dir / made_from, tags, on_progress)
        return _trained(tracking, run_id, dataset.name, made_from, reused=False)


def standing_model(dataset: ExportedDataset, config: TrainingConfig, tracking: Tracking) -> TrainedModel:
    """The model that `train` has made of a dataset with these parameters before.

    Raises:
        UserError: there is none, or the extra or what the training starts from is missing.
    """
    require_train_extra()
    made_from = _made_from(dataset, config)
    run_id = tracking.finished_run(made_from)
    if run_id is None:
        raise UserError(
            f"dataset {dataset.name} {dataset.version} has no model trained with its present parameters: "
            f"`al train {dataset.name}` trains one"
        )
    return _trained(tracking, run_id, dataset.name, made_from, reused=True)


def _made_from(dataset: ExportedDataset, config: TrainingConfig) -> str:
    return fingerprint(
        dataset_id=dataset.dataset_id,
        content_hash=dataset.content_hash,
        config=config.model_dump(mode="json", exclude={"model"}),
        model=check_model(config.model),
        library=importlib.metadata.version("ultralytics"),
        code_version=CODE_VERSION,
    )


def _train(
    dataset: ExportedDataset,
    config: TrainingConfig,
    tracking: Tracking,
    scratch: Path,
    tags: Mapping[str, str],
    on_progress: Callable[[Progress], None],
) -> str:
    """Train in a scratch folder of this one training, record it, and return the MLflow run's id."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    choose_split(dataset)  # Hours of training end in an evaluation, or do not begin.
    data, validation = stage(dataset, scratch / "data")
    if validation != "val":
        logger.warning("the val split is empty, the train split stands in for it", dataset=dataset.name)
    params = {**config.model_dump(mode="json"), "classes": ",".join(dataset.classes), "validation_split": validation}
    params |= {f"images_{split}": count for split, count in dataset.splits.items()}
    run_id = tracking.start_run(dataset, params=params, tags=tags, run_name=f"{dataset.name} {dataset.version}")
    logger.info("training", dataset=dataset.name, model=config.model, epochs=config.epochs, mlflow_run_id=run_id)

    def report(message: dict[str, Any]) -> None:
        progress = Progress(**{name: value for name, value in message.items() if name != "event"})
        tracking.log_metrics(run_id, _curves(progress, validation), step=progress.epoch)
        on_progress(progress)

    try:
        try:
            result = run_worker("train", _job(config, data, scratch), scratch, report)
        finally:
            _log_if_there(tracking, run_id, scratch / "train.log")
        _log_if_there(tracking, run_id, Path(result["results"]))
        tracking.log_weights(run_id, Path(result["weights"]))
        tracking.end_run(run_id)
    except BaseException as error:
        tracking.end_run(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return run_id


def _job(config: TrainingConfig, data: Path, scratch: Path) -> dict[str, Any]:
    """The worker's job: the trainer's own arguments, those that keep it offline and quiet included."""
    arguments = config.model_dump(mode="json", exclude={"model", "threads", "validate_each_epoch", "device"})
    if config.device != "auto":
        arguments["device"] = config.device
    if config.optimizer in ("Adam", "AdamW"):
        # The trainer warms biases up from 0.1, a rate for SGD that throws Adam off.
        arguments["warmup_bias_lr"] = 0.0
    arguments |= {
        "data": str(data.resolve()),
        "project": str(scratch.resolve()),
        "name": "run",
        "val": config.validate_each_epoch,
        "save": config.validate_each_epoch,
        "pretrained": config.model.endswith(".pt"),
        "freeze": config.freeze or None,
        "deterministic": True,
        "amp": False,
        "plots": False,
    }
    return {"model": model_argument(config.model), "threads": config.threads, "arguments": arguments}


def _curves(progress: Progress, validation: str) -> dict[str, float]:
    curves = {f"train_{name}": value for name, value in progress.losses.items()}
    curves |= {f"{validation}_{name}": value for name, value in progress.metrics.items()}
    return curves | {"learning_rate": progress.learning_rate, "seconds": progress.seconds}


def _log_if_there(tracking: Tracking, run_id: str, path: Path) -> None:
    if path.is_file():
        tracking.log_file(run_id, path)


def _trained(tracking: Tracking, run_id: str, name: str, made_from: str, *, reused: bool) -> TrainedModel:
    """The model of a finished run, registered if a process died between the two."""
    model = tracking.register(run_id, name)
    return TrainedModel(
        mlflow_run_id=run_id,
        model_name=model.name,
        model_version=model.version,
        weights_path=tracking.weights_path(model.name, model.version),
        metrics=tracking.metrics(run_id),
        fingerprint=made_from,
        reused=reused,
    )
