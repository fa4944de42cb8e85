"""Figures of a detector: COCO average precision, precision and recall at one confidence, confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.geometry import iou_matrix

if TYPE_CHECKING:
    import supervision as sv

MATCH_IOU = 0.5
"""A box finds an object if they overlap at least this much and have the same class."""


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class as the confidence threshold falls, at IoU 0.5.

    Args:
        confidence: (n,), falling; each threshold keeps the boxes at least as sure.
        precision: (n,), of the boxes kept.
        recall: (n,), of the class's objects.
    """

    confidence: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def f1_at(self, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """F1 at each threshold: 0 where no box is kept."""
        total = self.precision + self.recall
        f1 = np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)
        kept = np.searchsorted(-self.confidence, -thresholds, side="right")
        return np.concatenate([[0.0], f1])[kept]


@dataclass(frozen=True)
class ClassFigures:
    """How one class is detected.

    Args:
        name: the class.
        objects: how many the split has.
        ap50: average precision at IoU 0.5; None where the split has none of the class, as for all that follow.
        ap50_95: mean average precision over IoU 0.5 to 0.95.
        precision: share of the boxes that find an object, at the operating confidence and IoU 0.5.
        recall: share of the objects that are found, likewise.
        f1: harmonic mean of the two.
    """

    name: str
    objects: int
    ap50: float | None
    ap50_95: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Figures:
    """How a split is detected.

    Args:
        overall: ``map50_95``, ``map50``, ``map75`` (COCO: at most 100 boxes an image, means over classes), and
            ``precision``, ``recall``, ``f1`` (means over classes, at the operating confidence and IoU 0.5).
        per_class: a row a class, in the order of the classes.
        confusion: (classes + 1, classes + 1): rows are what an object is, columns what it is taken for, the last of
            each is background; boxes of at least the operating confidence, matched at IoU 0.5.
    """

    overall: dict[str, float]
    per_class: list[ClassFigures]
    confusion: NDArray[np.int64]


def precision_recall_curves(
    predictions: "Sequence[sv.Detections]", targets: "Sequence[sv.Detections]", class_count: int
) -> list[Curve]:
    """A curve for each class.

    Args:
        predictions: for each image, boxes with class and confidence.
        targets: for each image, the true boxes with class.
        class_count: number of classes.
    """
    return [_curve(predictions, targets, class_id) for class_id in range(class_count)]


def operating_confidence(curves: Sequence[Curve]) -> float:
    """The confidence at which the mean F1 of the classes is best; 0 if nothing is ever found.

    Args:
        curves: of the classes that have objects.
    """
    thresholds = np.unique(np.concatenate([curve.confidence for curve in curves])) if curves else np.empty(0)
    if thresholds.size == 0:
        return 0.0
    mean_f1 = np.mean([curve.f1_at(thresholds) for curve in curves], axis=0)
    return float(thresholds[mean_f1.argmax()])


def measure(
    predictions: "Sequence[sv.Detections]",
    targets: "Sequence[sv.Detections]",
    classes: Sequence[str],
    confidence: float,
) -> Figures:
    """Compare boxes to the truth.

    Args:
        predictions: for each image, boxes with class and confidence, also those of low confidence.
        targets: for each image, the true boxes with class; at least one in all.
        classes: names of the class ids.
        confidence: the operating confidence.
    """
    import supervision as sv
    from supervision.metrics import F1Score, MeanAveragePrecision, Precision, Recall

    found, truth = list(predictions), list(targets)
    average = MeanAveragePrecision().update(found, truth).compute()
    kept = [_choose(boxes, _confidences(boxes) >= confidence) for boxes in found]
    precision = Precision().update(kept, truth).compute()
    recall = Recall().update(kept, truth).compute()
    f1 = F1Score().update(kept, truth).compute()
    by_class = {
        "ap50": _rows(average.matched_classes, average.ap_per_class[:, 0]),
        "ap50_95": _rows(average.matched_classes, average.ap_per_class.mean(axis=1)),
        "precision": _rows(precision.matched_classes, precision.precision_per_class[:, 0]),
        "recall": _rows(recall.matched_classes, recall.recall_per_class[:, 0]),
        "f1": _rows(f1.matched_classes, f1.f1_per_class[:, 0]),
    }
    counts = np.bincount(np.concatenate([_class_ids(boxes) for boxes in truth]), minlength=len(classes))
    present = np.flatnonzero(counts)
    per_class = [
        ClassFigures(
            name, int(count), **{key: row.get(class_id, 0.0) if count else None for key, row in by_class.items()}
        )
        for class_id, (name, count) in enumerate(zip(classes, counts, strict=True))
    ]
    means = {
        key: float(np.mean([by_class[key].get(int(class_id), 0.0) for class_id in present]))
        for key in ("precision", "recall", "f1")
    }
    confusion = sv.ConfusionMatrix.from_detections(
        found, truth, list(classes), conf_threshold=confidence, iou_threshold=MATCH_IOU
    )
    overall = {
        "map50_95": max(average.map50_95, 0.0),
        "map50": max(average.map50, 0.0),
        "map75": max(average.map75, 0.0),
        **means,
    }
    return Figures(overall, per_class, confusion.matrix.astype(np.int64))


def _rows(class_ids: NDArray[np.int32], values: NDArray[np.float64]) -> dict[int, float]:
    """Values by class; the library marks what it could not measure by -1."""
    return {int(class_id): max(float(value), 0.0) for class_id, value in zip(class_ids, values, strict=True)}


def _curve(predictions: "Sequence[sv.Detections]", targets: "Sequence[sv.Detections]", class_id: int) -> Curve:
    confidence, hits, objects = [np.empty(0)], [np.empty(0, dtype=bool)], 0
    for boxes, truth in zip(predictions, targets, strict=True):
        boxes = _choose(boxes, _class_ids(boxes) == class_id)
        truth = _choose(truth, _class_ids(truth) == class_id)
        order = np.argsort(-_confidences(boxes), kind="stable")
        confidence.append(_confidences(boxes)[order])
        hits.append(_hits(iou_matrix(boxes.xyxy[order].astype(np.float64), truth.xyxy.astype(np.float64))))
        objects += len(truth)
    sure = np.concatenate(confidence)
    order = np.argsort(-sure, kind="stable")
    found = np.cumsum(np.concatenate(hits)[order])
    return Curve(sure[order], found / np.arange(1, len(sure) + 1), found / max(objects, 1))


def _hits(overlap: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which boxes, surest first, find an object that no surer box has found.

    Args:
        overlap: (boxes, objects), intersection over union.
    """
    hits = np.zeros(len(overlap), dtype=bool)
    free = np.ones(overlap.shape[1], dtype=bool)
    for index, row in enumerate(overlap):
        best = int(np.argmax(np.where(free, row, -1))) if free.any() else -1
        if best >= 0 and row[best] >= MATCH_IOU:
            hits[index] = True
            free[best] = False
    return hits


def _choose(boxes: "sv.Detections", chosen: NDArray[np.bool_]) -> "sv.Detections":
    return cast("sv.Detections", boxes[chosen])


def _confidences(boxes: "sv.Detections") -> NDArray[np.float64]:
    return np.zeros(0) if boxes.confidence is None else np.asarray(boxes.confidence, dtype=np.float64)


def _class_ids(boxes: "sv.Detections") -> NDArray[np.int64]:
    return np.zeros(0, dtype=np.int64) if boxes.class_id is None else np.asarray(boxes.class_id, dtype=np.int64)
