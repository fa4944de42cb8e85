"""Evaluate a trained model on the images of its dataset that it has never seen."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.training.config import TrainingConfig
from al_dagster.training.dataset import ExportedDataset, read_labels
from al_dagster.training.metrics import (
    MATCH_IOU,
    ClassFigures,
    measure,
    operating_confidence,
    precision_recall_curves,
)
from al_dagster.training.plots import average_precision_plot, confusion_plot, precision_recall_plot
from al_dagster.training.tracking import Tracking
from al_dagster.yolo.predict import predict

if TYPE_CHECKING:
    import supervision as sv

ARTIFACTS_FOLDER = "evaluation"
UNNAMEABLE = re.compile(r"[^\w.\- ]")
LONGEST_METRIC_NAME = 250
"""In characters; MLflow refuses longer ones."""
"""Characters that MLflow refuses in the name of a metric."""


@dataclass(frozen=True)
class Evaluation:
    """How well a model detects what it was not trained on.

    Args:
        split: the split it was measured on: ``test``, or ``val`` where ``test`` has no objects.
        note: a sentence on what limits the figures; empty if nothing does.
        images: images of the split.
        objects: objects in them.
        metrics: ``map50_95``, ``map50``, ``map75`` (COCO), ``precision``, ``recall``, ``f1`` (means over classes at the
            operating confidence and IoU 0.5), ``operating_confidence`` (0–1).
        confidence_split: the split on which the operating confidence has the best mean F1.
        per_class: figures of each class.
        classes: class names.
        confusion: (classes + 1, classes + 1), rows what an object is, columns what it is taken for, background last;
            at the operating confidence and IoU 0.5.
        plots: PNG files by name: ``precision_recall``, ``average_precision``, ``confusion_matrix``.
    """

    split: str
    note: str
    images: int
    objects: int
    metrics: dict[str, float]
    confidence_split: str
    per_class: list[ClassFigures]
    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    plots: dict[str, bytes]


@dataclass(frozen=True)
class EvaluatedSplit:
    """The split that a model is measured on.

    Args:
        name: ``test``, or ``val`` where ``test`` has no objects.
        images: its images, sorted by name.
        note: a sentence where it is not ``test``; empty otherwise.
    """

    name: str
    images: list[Path]
    note: str = ""


def evaluate(
    dataset: ExportedDataset,
    weights: Path,
    config: TrainingConfig,
    work_dir: Path,
    *,
    tracking: Tracking | None = None,
    mlflow_run_id: str | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure a model on the test split of its dataset, and add the figures and plots to its MLflow run.

    The operating confidence is chosen on the val split, so that the test split stays unseen; where val has no
    objects, it is chosen on the split that is measured.

    Args:
        dataset: the dataset the model was trained on.
        weights: the model's ``.pt`` file.
        config: how it was trained; image size, batch, device and threads are used again.
        work_dir: folder for scratch files.
        tracking: where to record the evaluation; None: nowhere.
        mlflow_run_id: the run that trained the model.
        on_progress: called with the images done and all images.

    Raises:
        UserError: neither test nor val has objects, or the training extra is missing.
        YoloError: the prediction process failed.
    """
    measured = choose_split(dataset)
    tuned = EvaluatedSplit("val", dataset.images("val") if measured.name != "val" else [])
    images = [*measured.images, *tuned.images]
    found = predict(
        weights,
        images,
        work_dir,
        imgsz=config.imgsz,
        batch=config.batch,
        device=config.device,
        threads=config.threads,
        on_progress=on_progress,
    )
    truth = _truth(dataset, images, found.sizes)
    count, classes = len(measured.images), dataset.classes
    curves = precision_recall_curves(found.boxes[:count], truth[:count], len(classes))
    tuning = found.boxes[count:], truth[count:]
    if not any(len(boxes) for boxes in tuning[1]):
        tuned, tuning = measured, (found.boxes[:count], truth[:count])
    confidence = _best_confidence(*tuning, len(classes))
    figures = measure(found.boxes[:count], truth[:count], classes, confidence)
    evaluation = Evaluation(
        split=measured.name,
        note=measured.note,
        images=count,
        objects=sum(len(boxes) for boxes in truth[:count]),
        metrics={**figures.overall, "operating_confidence": confidence},
        confidence_split=tuned.name,
        per_class=figures.per_class,
        classes=classes,
        confusion=figures.confusion,
        plots={
            "precision_recall": precision_recall_plot(curves, figures.per_class),
            "average_precision": average_precision_plot(figures.per_class),
            "confusion_matrix": confusion_plot(figures.confusion, classes, confidence),
        },
    )
    if tracking is not None and mlflow_run_id is not None:
        _record(evaluation, tracking, mlflow_run_id)
    return evaluation


def choose_split(dataset: ExportedDataset) -> EvaluatedSplit:
    """The test split of a dataset, or its val split if the test split has no objects.

    Raises:
        UserError: neither has objects.
    """
    for split in ("test", "val"):
        images = dataset.images(split)
        labels = (dataset.label_file(image) for image in images)
        if any(label.exists() and label.read_text(encoding="utf-8").strip() for label in labels):
            note = "" if split == "test" else "the test split has no objects, so the figures are of the val split"
            return EvaluatedSplit(split, images, note)
    raise UserError(
        f"dataset {dataset.name} {dataset.version} has no objects in its test and val splits to evaluate on: "
        "label more images or change the split ratios, then build it again"
    )


def _truth(dataset: ExportedDataset, images: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> "list[sv.Detections]":
    import supervision as sv

    labels = (read_labels(dataset.label_file(image), *size) for image, size in zip(images, sizes, strict=True))
    return [sv.Detections(xyxy=boxes, class_id=class_ids) for boxes, class_ids in labels]


def _best_confidence(
    predictions: "Sequence[sv.Detections]", targets: "Sequence[sv.Detections]", class_count: int
) -> float:
    present = {int(class_id) for boxes in targets if boxes.class_id is not None for class_id in boxes.class_id}
    curves = precision_recall_curves(predictions, targets, class_count)
    return operating_confidence([curves[class_id] for class_id in sorted(present)])


def metric_name(prefix: str, class_name: str) -> str:
    """The name of a metric of a class, as MLflow takes it; one that had to be changed ends in a hash of the class.

    Args:
        prefix: what the metric is; short.
        class_name: any text; its full form is in ``evaluation.json``.

    Example:
        >>> metric_name("test_ap50_", "nut"), metric_name("test_ap50_", "nut/bolt")
        ('test_ap50_nut', 'test_ap50_nut_bolt_81c04b8a')
    """
    name = prefix + UNNAMEABLE.sub("_", class_name)
    if name == prefix + class_name and len(name) <= LONGEST_METRIC_NAME:
        return name
    ending = f"_{hashlib.sha256(class_name.encode()).hexdigest()[:8]}"
    return name[: LONGEST_METRIC_NAME - len(ending)] + ending


def _record(evaluation: Evaluation, tracking: Tracking, run_id: str) -> None:
    """Add metrics ``test_…`` (``final_val_…`` where val stood in), a JSON file and the plots to a run."""
    prefix = "test" if evaluation.split == "test" else "final_val"
    metrics = {f"{prefix}_{name}": value for name, value in evaluation.metrics.items()}
    for row in evaluation.per_class:
        if row.ap50 is not None:
            metrics[metric_name(f"{prefix}_ap50_", row.name)] = row.ap50
    tracking.log_metrics(run_id, metrics)
    tracking.tag(run_id, {"al.evaluated_split": evaluation.split, "al.evaluation_note": evaluation.note})
    report = {
        **{name: value for name, value in asdict(evaluation).items() if name not in ("plots", "confusion")},
        "confusion": evaluation.confusion.tolist(),
        "match_iou": MATCH_IOU,
    }
    with TemporaryDirectory() as folder:
        (Path(folder) / "evaluation.json").write_text(
            json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        for name, png in evaluation.plots.items():
            (Path(folder) / f"{name}.png").write_bytes(png)
        for file in sorted(Path(folder).iterdir()):
            tracking.log_file(run_id, file, ARTIFACTS_FOLDER)
