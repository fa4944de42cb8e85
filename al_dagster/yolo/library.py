"""ultralytics itself, as the worker uses it: offline, quiet, and loading nothing that could run code."""

import functools
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

from al_dagster.core.hashing import file_sha256
from al_dagster.core.memory import is_out_of_memory

COPIED_NAME = "weights.pt"
BOX_TASKS = ("detect", "segment", "pose")
"""Kinds of models that give upright boxes."""


class RefusedError(Exception):
    """The job names something that the user has to put right."""


def prepare_library() -> None:
    """Settings and font in the library's own folder, so that it looks for neither elsewhere."""
    import matplotlib

    folder = Path(os.environ["YOLO_CONFIG_DIR"]) / "Ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        shutil.copyfile(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", folder / name)

    from ultralytics import settings
    from ultralytics.utils import nms

    trackers = ("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb", "vscode_msg")
    settings.update({name: False for name in trackers if name in settings})
    # After two seconds it would leave the other images of a batch without boxes, as happens on a busy machine.
    nms.non_max_suppression = functools.partial(nms.non_max_suppression, max_time_img=3600.0)


def use_threads(threads: int) -> None:
    """Set the number of CPU threads; the library sets one less than the machine has when it chooses the device."""
    import torch

    torch.set_num_threads(threads or int(os.environ.get("OMP_NUM_THREADS") or 0) or os.cpu_count() or 1)


def load_model(path: str, tasks: tuple[str, ...] = ("detect",), name: str | None = None) -> Any:
    """A model, from an architecture or from weights; of a file of weights only known classes are unpickled.

    ``ULTRALYTICS_SAFE_LOAD``, which the process's environment sets, makes the library load with
    ``torch.load(weights_only=True)`` and an allow-list of its own and torch's layers.

    Args:
        path: the file.
        tasks: kinds of models that will do.
        name: what the file is called in errors; None: by its path.

    Raises:
        RefusedError: it cannot be read, or is for another task.
        MemoryError, RuntimeError: it needs more memory than there is.
    """
    from ultralytics.models import YOLO
    from ultralytics.utils import SAFE_LOAD

    if not SAFE_LOAD:
        raise RuntimeError("this process may load weights only with ULTRALYTICS_SAFE_LOAD=1")
    try:
        model = YOLO(path, task="detect")
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = type(error).__name__
        if isinstance(error.__cause__, pickle.UnpicklingError):
            reason = "it is damaged, or holds more than layers of ultralytics and torch, and nothing else is unpickled"
        raise RefusedError(f"{name or path} cannot be read as a YOLO model: {reason}") from error
    if model.task not in tasks:
        raise RefusedError(
            f"{name or path} is a YOLO model for the task {model.task!r}; one for {tasks[0]!r} is needed"
        )
    return model


def load_weights(path: str, tasks: tuple[str, ...] = ("detect",), sha256: str | None = None) -> Any:
    """A model from a file of weights, whatever the file is called.

    It is read from a copy in the working folder. The library takes some names, such as ``yolov5s.pt``, for others and
    looks for those; and the file may be replaced while it is read.

    Args:
        path: the file.
        tasks: kinds of models that will do.
        sha256: that of the file's content, as it was when the run began; None: any will do.

    Raises:
        RefusedError: it cannot be read, is for another task, or has another content.
        MemoryError, RuntimeError: it needs more memory than there is.
    """
    copy = Path(COPIED_NAME)
    try:
        shutil.copyfile(path, copy)
    except OSError as error:
        raise RefusedError(f"{path} cannot be copied to {Path.cwd()}: {error.strerror}") from error
    try:
        if sha256 is not None and file_sha256(copy) != sha256:
            raise RefusedError(f"{path} was replaced while it was in use; run it again")
        return load_model(COPIED_NAME, tasks, path)
    finally:
        copy.unlink(missing_ok=True)
