"""Boxes of a trained model, found in a process of its own."""

import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
        UserError: the training extra is missing, or memory ran out.
        YoloError: the process failed.
    """
    import supervision as sv

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
        "arguments": arguments,
    }
    try:
        result = run_worker("predict", job, scratch, lambda message: on_progress(message["done"], message["total"]))
        with np.load(result["output"]) as table:
            boxes = [
                sv.Detections(
                    xyxy=table["xyxy"][chosen],
                    confidence=table["confidence"][chosen],
                    class_id=table["class_id"][chosen],
                )
                for chosen in (table["image"] == index for index in range(len(images)))
            ]
            sizes = [(int(width), int(height)) for height, width in table["sizes"]]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Predictions(boxes, sizes)
