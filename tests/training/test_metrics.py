import contextlib
import io

import numpy as np
import pytest
import supervision as sv
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from al_dagster.training.metrics import MATCH_IOU, measure, operating_confidence, precision_recall_curves

CLASSES = ("nut", "bolt", "washer")


def truth(*boxes: tuple[int, list[float]]) -> sv.Detections:
    return sv.Detections(
        xyxy=np.array([box for _, box in boxes], dtype=np.float64).reshape(-1, 4),
        class_id=np.array([class_id for class_id, _ in boxes], dtype=np.int64),
    )


def found(*boxes: tuple[int, list[float], float]) -> sv.Detections:
    detections = truth(*[(class_id, box) for class_id, box, _ in boxes])
    detections.confidence = np.array([confidence for *_, confidence in boxes], dtype=np.float64)
    return detections


def box(x: float) -> list[float]:
    return [x, 10.0, x + 20.0, 40.0]


def random_scene(seed: int) -> tuple[list[sv.Detections], list[sv.Detections]]:
    """Images with shifted, doubled, missed, misnamed and invented boxes."""
    rng = np.random.default_rng(seed)
    predictions, targets = [], []
    for _ in range(4):
        corners = rng.uniform(0, 200, (rng.integers(0, 9), 2))
        boxes = np.concatenate([corners, corners + rng.uniform(10, 120, corners.shape)], axis=1)
        class_ids = rng.integers(0, 2, len(boxes))
        doubled = boxes[:3]
        shifts = rng.normal(0, 4, boxes.shape), rng.normal(0, 2, doubled.shape)
        guessed = np.concatenate([boxes + shifts[0], doubled + shifts[1]])
        guessed[:, 2:] = np.maximum(guessed[:, 2:], guessed[:, :2] + 1)
        names = np.concatenate([class_ids, class_ids[:3]])
        names = np.where(rng.random(len(names)) < 0.2, rng.integers(0, 3, len(names)), names)
        targets.append(sv.Detections(xyxy=boxes, class_id=class_ids))
        confidence = rng.permutation(len(guessed)) / 40 + 0.01 * rng.random() + 0.1
        predictions.append(sv.Detections(xyxy=guessed, class_id=names, confidence=confidence))
    return predictions, targets


def coco_average_precision(predictions: list[sv.Detections], targets: list[sv.Detections]) -> np.ndarray:
    """pycocotools' own precision table averaged over recall: (IoU thresholds, classes), nan where a class is absent."""
    data: dict[str, list] = {
        "images": [{"id": index} for index in range(len(targets))],
        "categories": [{"id": index} for index in range(len(CLASSES))],
        "annotations": [],
    }
    results = []
    for index, (boxes, true) in enumerate(zip(predictions, targets, strict=True)):
        for (x1, y1, x2, y2), class_id in zip(true.xyxy.tolist(), true.class_id.tolist(), strict=True):
            entry = {"image_id": index, "category_id": class_id, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            entry |= {"area": (x2 - x1) * (y2 - y1), "id": len(data["annotations"]) + 1}
            data["annotations"].append(entry)
        rows = zip(boxes.xyxy.tolist(), boxes.class_id.tolist(), boxes.confidence.tolist(), strict=True)
        for (x1, y1, x2, y2), class_id, score in rows:
            corner_and_size = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": index, "category_id": class_id, "bbox": corner_and_size, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = data
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    table = evaluation.eval["precision"][:, :, :, 0, -1].mean(axis=1)
    return np.where(table < 0, np.nan, table)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_pycocotools(seed: int) -> None:
    predictions, targets = random_scene(seed)
    expected = coco_average_precision(predictions, targets)
    figures = measure(predictions, targets, CLASSES, 0.3)
    assert figures.overall["map50_95"] == pytest.approx(np.nanmean(expected), abs=1e-3)
    assert figures.overall["map50"] == pytest.approx(np.nanmean(expected[0]), abs=1e-3)
    assert figures.overall["map75"] == pytest.approx(np.nanmean(expected[5]), abs=1e-3)
    for class_id, row in enumerate(figures.per_class[:2]):
        assert row.ap50 == pytest.approx(expected[0, class_id], abs=1e-3)
        assert row.ap50_95 == pytest.approx(expected[:, class_id].mean(), abs=1e-3)
    assert figures.per_class[2].ap50 is None


def test_average_precision_of_three_boxes_is_that_of_the_hand() -> None:
    """Right, wrong, right, by falling confidence, for two objects: precision 1 to recall 1/2, then 2/3.

    COCO takes the precision at recall 0, 0.01, … 1: 51 times 1 and 50 times 2/3.
    """
    targets = [truth((0, box(0)), (0, box(50)))]
    predictions = [found((0, box(0), 0.9), (0, box(100), 0.8), (0, box(50), 0.7))]
    figures = measure(predictions, targets, CLASSES, 0.75)
    assert figures.overall["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-6)
    assert (figures.overall["precision"], figures.overall["recall"]) == (0.5, 0.5)
    assert figures.overall["f1"] == pytest.approx(0.5)


def test_the_confusion_matrix_counts_known_boxes() -> None:
    targets = [truth((0, box(0)), (1, box(50)), (2, box(100))), truth((2, box(0)))]
    predictions = [
        found((0, box(0), 0.9), (0, box(50), 0.8), (1, box(200), 0.7), (2, box(100), 0.1)),
        found((2, box(1), 0.6)),
    ]
    figures = measure(predictions, targets, CLASSES, 0.5)
    assert figures.confusion.tolist() == [
        [1, 0, 0, 0],  # the nut is a nut
        [1, 0, 0, 0],  # the bolt is taken for a nut
        [0, 0, 1, 1],  # one washer is found, one only below the confidence
        [0, 1, 0, 0],  # and a bolt stands where nothing is
    ]


def test_no_boxes_at_all_give_zero() -> None:
    targets = [truth((0, box(0))), truth((1, box(0)))]
    predictions = [sv.Detections.empty(), found()]
    figures = measure(predictions, targets, CLASSES, 0.0)
    assert set(figures.overall.values()) == {0.0}
    assert [row.recall for row in figures.per_class] == [0.0, 0.0, None]
    assert figures.confusion[:, -1].tolist() == [1, 1, 0, 0]
    assert operating_confidence(precision_recall_curves(predictions, targets, 2)) == 0.0


def test_boxes_of_a_class_without_objects_lower_no_mean() -> None:
    figures = measure([found((0, box(0), 0.9), (1, box(80), 0.9))], [truth((0, box(0)))], CLASSES, 0.5)
    assert (figures.overall["map50"], figures.overall["precision"], figures.overall["recall"]) == (1.0, 1.0, 1.0)


def test_the_operating_confidence_keeps_the_right_boxes_and_drops_the_wrong() -> None:
    targets = [truth((0, box(0)), (1, box(50)))]
    predictions = [found((0, box(0), 0.9), (1, box(50), 0.6), (0, box(100), 0.4), (1, box(150), 0.3))]
    assert operating_confidence(precision_recall_curves(predictions, targets, 2)) == 0.6


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), rank=st.integers(0, 10))
def test_the_curve_agrees_with_the_figures_at_every_confidence(seed: int, rank: int) -> None:
    """Far boxes only, where which box finds which object does not hang on the order of matching."""
    rng = np.random.default_rng(seed)
    targets = [truth(*[(0, box(100.0 * place)) for place in range(6)])]
    places = rng.choice(11, size=rng.integers(1, 11), replace=False)
    confidences = np.round(rng.permutation(len(places)) / 20 + 0.2, 3)
    predictions = [found(*[(0, box(100.0 * p), c) for p, c in zip(places.tolist(), confidences.tolist(), strict=True)])]
    curve = precision_recall_curves(predictions, targets, 1)[0]
    place = min(rank, len(places) - 1)
    figures = measure(predictions, targets, ["nut"], float(curve.confidence[place]))
    assert MATCH_IOU == 0.5
    assert figures.overall["precision"] == pytest.approx(curve.precision[place])
    assert figures.overall["recall"] == pytest.approx(curve.recall[place])
    assert figures.overall["f1"] == pytest.approx(curve.f1_at(curve.confidence[place : place + 1])[0])
