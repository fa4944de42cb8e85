"""Compares labels with the truth that was kept aside."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from al_dagster.core.geometry import iou_matrix, xywh_to_xyxy


@dataclass(frozen=True)
class Label:
    """A named box in an image.

    Args:
        image: what the image is called on both sides, such as its file name.
        label: the class.
        box: x, y, w, h in pixels.
    """

    image: str
    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Counts:
    """How many labels are right.

    Args:
        matched: labels that have an object of the truth to themselves.
        predicted: all labels.
        true: all objects of the truth.
    """

    matched: int
    predicted: int
    true: int

    @property
    def precision(self) -> float:
        """Share of the labels that are right, 0–1; 1 where there is none."""
        return self.matched / self.predicted if self.predicted else 1.0

    @property
    def recall(self) -> float:
        """Share of the objects that are labelled rightly, 0–1; 1 where there is none."""
        return self.matched / self.true if self.true else 1.0


@dataclass(frozen=True)
class Score:
    """Counts of all classes together and of each.

    Args:
        overall: all classes.
        per_class: by class, in alphabetical order.
    """

    overall: Counts
    per_class: dict[str, Counts]


def score_labels(predictions: Iterable[Label], truth: Iterable[Label], iou: float = 0.5) -> Score:
    """Count the labels that agree with the truth.

    A label and an object can be a pair if image and class are the same and their boxes overlap by at least ``iou``.
    Each belongs to one pair at most, and the pairing with the most pairs is counted, so the order plays no part. A
    second label on an object is wrong. A label of the wrong class is wrong and leaves its object unfound.

    Args:
        predictions: the labels to be judged.
        truth: the objects that are there.
        iou: least intersection over union of a pair, above 0 and at most 1.

    Raises:
        ValueError: ``iou`` is outside its range.
    """
    if not 0 < iou <= 1:
        raise ValueError(f"iou must be above 0 and at most 1, got {iou}")
    predicted, true = _grouped(predictions), _grouped(truth)
    per_class: dict[str, Counts] = {}
    for name in sorted({label for label, _ in (*predicted, *true)}):
        images = {image for label, image in (*predicted, *true) if label == name}
        per_class[name] = Counts(
            matched=sum(_matches(predicted.get((name, i), []), true.get((name, i), []), iou) for i in images),
            predicted=sum(len(predicted.get((name, i), [])) for i in images),
            true=sum(len(true.get((name, i), [])) for i in images),
        )
    counts = per_class.values()
    overall = Counts(sum(c.matched for c in counts), sum(c.predicted for c in counts), sum(c.true for c in counts))
    return Score(overall, per_class)


def read_truth(path: Path) -> list[Label]:
    """The objects of a COCO file, with the file names of their images."""
    coco = json.loads(path.read_text(encoding="utf-8"))
    images = {image["id"]: image["file_name"] for image in coco["images"]}
    names = {category["id"]: category["name"] for category in coco["categories"]}
    return [
        Label(images[entry["image_id"]], names[entry["category_id"]], tuple(entry["bbox"]))
        for entry in coco["annotations"]
    ]


_Boxes = list[tuple[float, float, float, float]]


def _grouped(labels: Iterable[Label]) -> dict[tuple[str, str], _Boxes]:
    groups: dict[tuple[str, str], _Boxes] = defaultdict(list)
    for entry in labels:
        groups[entry.label, entry.image].append(entry.box)
    return groups


def _matches(predicted: Sequence[tuple[float, ...]], true: Sequence[tuple[float, ...]], iou: float) -> int:
    if not predicted or not true:
        return 0
    overlaps = iou_matrix(xywh_to_xyxy(np.array(predicted)), xywh_to_xyxy(np.array(true))) >= iou
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return int(overlaps[rows, columns].sum())
