"""The training process: ``python -m al_dagster.training.worker train|predict JOB.json``.

It alone imports ultralytics and torch, so that their licence, their globals and their crashes stay in a process of
their own. It answers in lines of JSON on standard output; everything that the libraries print goes to standard error.
It ends when its standard input is closed, that is, when the process that started it is gone.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Emit = Callable[[dict[str, Any]], None]


class _RefusedError(Exception):
    """The job names something that the user has to put right."""


def main(arguments: list[str]) -> int:
    """Do the job described by a JSON file and return the exit status."""
    mode, job_file = arguments
    emit = _answer_channel()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    _prepare_library()
    try:
        result = {"train": _train, "predict": _predict}[mode](job, emit)
    except _RefusedError as error:
        result = {"refused": str(error)}
    emit({"event": "result", **result})
    return 0


def _answer_channel() -> Emit:
    """Keep standard output for answers and send whatever else is printed to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def emit(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")

    return emit


def _leave_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(3)


def _use_threads(threads: int) -> None:
    """Set the number of CPU threads; the library sets one less than the machine has when it chooses the device."""
    import torch

    torch.set_num_threads(threads or int(os.environ.get("OMP_NUM_THREADS") or 0) or os.cpu_count() or 1)


def _prepare_library() -> None:
    """Settings and font in the library's own folder, so that it looks for neither elsewhere."""
    import matplotlib

    folder = Path(os.environ["YOLO_CONFIG_DIR"]) / "Ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        shutil.copyfile(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", folder / name)

    from ultralytics import settings

    trackers = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg")
    settings.update({name: False for name in trackers if name in settings})


def _load(path: str) -> Any:
    from ultralytics.models import YOLO

    try:
        model = YOLO(path, task="detect")
    except Exception as error:
        raise _RefusedError(f"{path} cannot be read as a YOLO model: {type(error).__name__}") from error
    if model.task != "detect":
        raise _RefusedError(f"{path} is a YOLO model for the task {model.task!r}; one for 'detect' is needed")
    return model


def _train(job: dict[str, Any], emit: Emit) -> dict[str, Any]:
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

    model = _load(job["model"])
    model.add_callback("on_train_start", lambda trainer: _use_threads(job["threads"]))
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


def _predict(job: dict[str, Any], emit: Emit) -> dict[str, Any]:
    import numpy as np
    from ultralytics.utils.patches import imread

    model = _load(job["weights"])
    model.add_callback("on_predict_start", lambda predictor: _use_threads(job["threads"]))
    paths, rows, sizes = job["images"], [], []
    for start in range(0, len(paths), job["batch"]):
        images = []
        for path in paths[start : start + job["batch"]]:
            image = imread(path)
            if image is None:
                raise ValueError(f"{path} cannot be read as an image")
            images.append(image)
        results = model.predict(images, verbose=False, save=False, **job["arguments"])
        for offset, result in enumerate(results):
            boxes = result.boxes.data.cpu().numpy()[:, :6]
            rows.append(np.column_stack([np.full(len(boxes), start + offset), boxes]))
            sizes.append(result.orig_shape)
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
    return {"output": job["output"], "names": [model.names[key] for key in sorted(model.names)]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
