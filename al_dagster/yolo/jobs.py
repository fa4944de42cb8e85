"""What the worker does: train once, predict on files once, or detect in the images that it is sent."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.memory import is_out_of_memory, limit_gpu_memory
from al_dagster.yolo.library import BOX_TASKS, RefusedError, load_model, load_weights, use_threads
from al_dagster.yolo.wire import Request

Emit = Callable[[dict[str, Any]], None]


def train(job: dict[str, Any], emit: Emit, requests: "SimpleQueue[Request]") -> dict[str, Any]:
    """Train a model, with a message after each epoch."""
    started = time.monotonic()

    trained = -1

    def note(trainer: Any) -> None:
        nonlocal trained
        trained = trainer.epoch

    def report(trainer: Any) -> None:
        # The validation after the last epoch calls back too, with the number of an epoch that was never trained.
        if trainer.epoch != trained:
            return
        emit(
            {
                "event": "epoch",
                "epoch": trainer.epoch + 1,
                "epochs": trainer.epochs,
                "losses": {name: float(value) for name, value in (trainer.tloss or {}).items()},
                "metrics": _validation(trainer.metrics, trainer.fitness),
                "learning_rate": float(next(iter(trainer.lr.values()))),
                "seconds": time.monotonic() - started,
            }
        )

    model = load_model(job["model"])
    model.add_callback("on_train_start", lambda trainer: use_threads(job["threads"]))
    model.add_callback("on_train_epoch_end", note)
    model.add_callback("on_fit_epoch_end", report)
    model.train(**job["arguments"])
    folder = Path(model.trainer.save_dir)
    return {
        "weights": str(folder / "weights" / "best.pt"),
        "results": str(folder / "results.csv"),
        "metrics": _validation(model.trainer.metrics, model.trainer.fitness),
        "epochs": model.trainer.epoch + 1,
    }


def _validation(metrics: dict[str, Any] | None, fitness: float | None) -> dict[str, float]:
    """Metrics by plain names; none in an epoch that was not validated."""
    if fitness is None or not metrics:
        return {}
    names = {"precision(B)": "precision", "recall(B)": "recall", "mAP50(B)": "map50", "mAP50-95(B)": "map50_95"}
    return {names[key]: float(value) for name, value in metrics.items() if (key := name.rpartition("/")[2]) in names}


def predict(job: dict[str, Any], emit: Emit, requests: "SimpleQueue[Request]") -> dict[str, Any]:
    """Find objects in files, write their boxes into an ``.npz`` file, with a message after each batch."""
    from ultralytics.utils.patches import imread

    model = load_weights(job["weights"])
    model.add_callback("on_predict_start", lambda predictor: use_threads(job["threads"]))
    paths: list[str] = job["images"]
    rows: list[NDArray[np.float64]] = []
    sizes: list[tuple[int, ...]] = []
    for start in range(0, len(paths), job["batch"]):
        images = []
        for path in paths[start : start + job["batch"]]:
            image = imread(path)
            if image is None:
                raise RefusedError(f"{path} cannot be read as an image")
            images.append(image)
        for image, boxes in zip(images, _find(model, images, job["arguments"]), strict=True):
            rows.append(np.column_stack([np.full(len(boxes), len(sizes)), boxes]))
            sizes.append(image.shape[:2])
        emit({"event": "images", "done": len(sizes), "total": len(paths)})
    table = np.concatenate(rows) if rows else np.empty((0, 7))
    np.savez(
        job["output"],
        image=table[:, 0].astype(np.int64),
        xyxy=table[:, 1:5].astype(np.float64),
        confidence=table[:, 5].astype(np.float64),
        class_id=table[:, 6].astype(np.int64),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
    )
    return {"output": job["output"], "names": _names(model)}


def detect(job: dict[str, Any], emit: Emit, requests: "SimpleQueue[Request]") -> dict[str, Any]:
    """Answer requests until the process is ended."""
    limit_gpu_memory(job["device"], job["max_bytes"])
    model = load_weights(job["weights"], BOX_TASKS, job["sha256"])
    model.add_callback("on_predict_start", lambda predictor: use_threads(job["threads"]))
    emit({"event": "ready", "names": _names(model)})
    while True:
        emit(_answer(model, requests.get()))


def _answer(model: Any, request: Request) -> dict[str, Any]:
    """The boxes that a request asks for; or that it needs too much memory."""
    import cv2
    import torch

    if request.images is None:
        return {"event": "out_of_memory"}
    try:
        bgr = [np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8) for image in request.images]
        found = _find(model, bgr, request.arguments)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # The traceback keeps the tensors of the failed call alive.
        error.__traceback__ = None
        if model.predictor is not None and model.predictor.model is None:
            # It ran out while the model was brought to its device, and would not be tried again.
            model.predictor = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {"event": "out_of_memory"}
    return {"event": "boxes", "boxes": [boxes.tolist() for boxes in found]}


def _find(model: Any, images: Sequence[NDArray[np.uint8]], arguments: dict[str, Any]) -> list[NDArray[np.float32]]:
    """Boxes of images, (k, 6) each: x1, y1, x2, y2 in pixels, confidence, class.

    Images of one size go together: the library pads a mixed batch to squares, and an image's boxes would then depend
    on its neighbours.

    Args:
        model: the model.
        images: (height, width, 3), uint8, BGR, each.
        arguments: those of the library's ``predict``.
    """
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(index)
    found: dict[int, NDArray[np.float32]] = {}
    for indices in by_size.values():
        results = model.predict([images[index] for index in indices], verbose=False, save=False, **arguments)
        for index, result in zip(indices, results, strict=True):
            found[index] = result.boxes.data.cpu().numpy()[:, :6]
    return [found[index] for index in range(len(images))]


def _names(model: Any) -> list[str]:
    return [model.names[key] for key in sorted(model.names)]


JOBS: dict[str, Callable[[dict[str, Any], Emit, "SimpleQueue[Request]"], dict[str, Any]]] = {
    "train": train,
    "predict": predict,
    "detect": detect,
}
"""By the name of the mode."""
