"""Boxes of a trained model, found in a process of its own."""

import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from al_dagster.yolo.process import run_worker

if TYPE_CHECKING:
    import supervision as sv

LEAST_CONFIDENCE = 0.001
NMS_IOU = 0.7
MOST_BOXES = 300


@dataclass(frozen=True)
class Predictions:
    """What a model finds in images.

    Args:
        boxes: for each image, ``sv.Detections`` with ``xyxy`` in pixels of the upright image, class ids and
            confidences from 0.001.
        sizes: for each image, its width and height in pixels.
    """

    boxes: "list[sv.Detections]"
    sizes: list[tuple[int, int]]


def predict(
    weights: Path,
    images: Sequence[Path],
    work_dir: Path,
    *,
    imgsz: int,
    batch: int = 16,
    device: str = "auto",
    threads: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Predictions:
    """Find objects in images.

    Args:
        weights: a ``.pt`` file.
        images: files of images.
        work_dir: folder for scratch files, which are removed at the end.
        imgsz: side in pixels that the longer side of an image is scaled to.
        batch: images at a time.
        device: ``auto``, ``cpu`` or the number of a GPU.
        threads: CPU threads; 0: ``OMP_NUM_THREADS``, or all cores.
        on_progress: called with the images done and all images.

    Raises:
        UserError: the training extra is missing, an image cannot be read, or memory ran out.
        YoloError: the process failed.
    """
    scratch = work_dir / f"predict-{uuid.uuid4().hex}"
    arguments: dict[str, object] = {"conf": LEAST_CONFIDENCE, "iou": NMS_IOU, "max_det": MOST_BOXES, "imgsz": imgsz}
    if device != "auto":
        arguments["device"] = device
    job = {
        "weights": str(weights.resolve()),
        "images": [str(image.absolute()) for image in images],
        "batch": batch,
        "threads": threads,
        "output": str((scratch / "boxes.npz").absolute()),
        "scratch": str(scratch.absolute()),
        "arguments": arguments,
    }
    try:
        result = run_worker("predict", job, scratch, lambda message: on_progress(message["done"], message["total"]))
        return read_predictions(Path(result["output"]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_predictions(file: Path) -> Predictions:
    """What the process found.

    Args:
        file: an ``.npz`` file with, for each box, in the order of the images, the ``image`` that it is in, its ``xyxy``
            in pixels, ``confidence`` and ``class_id``; and for each image ``sizes``, its height and width in pixels.
    """
    import supervision as sv

    with np.load(file) as table:
        # Each access reads the array from the file.
        image, xyxy, confidence, class_id, sizes = (
            table[name] for name in ("image", "xyxy", "confidence", "class_id", "sizes")
        )
    edges = np.searchsorted(image, np.arange(len(sizes) + 1))
    boxes = [
        sv.Detections(xyxy=xyxy[start:end], confidence=confidence[start:end], class_id=class_id[start:end])
        for start, end in pairwise(edges)
    ]
    return Predictions(boxes, [(int(width), int(height)) for height, width in sizes])
