"""A detection model that stays loaded in the process of ultralytics and answers many calls."""

import shutil
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.yolo.process import Worker
from al_dagster.yolo.wire import write_request

MODE = "detect"

logger = structlog.get_logger(__name__)


class ResidentModel:
    """A detection model in a process of its own, which starts when it is needed and ends with this one.

    Calls from several threads take turns. If the process is killed during a call, the call fails and the next one
    starts another process; if it is killed between calls, the next one starts another, with a warning in the log.

    Args:
        weights: a ``.pt`` file.
        scratch_dir: the folder that the process's own folder is made in and removed from.
        sha256: that of the file's content; another one is refused.
        device: ``cpu``, ``cuda:N``, or ``auto``: the first GPU, else the CPU.
        max_bytes: how much of the memory of a GPU that ``device`` names torch may take; None for all there is.
        threads: CPU threads; 0: ``OMP_NUM_THREADS``, or all cores.
    """

    def __init__(
        self,
        weights: Path,
        scratch_dir: Path,
        *,
        sha256: str,
        device: str = "auto",
        max_bytes: int | None = None,
        threads: int = 0,
    ) -> None:
        self.weights = weights
        self.scratch_dir = scratch_dir
        self.sha256 = sha256
        self.device = device
        self.max_bytes = max_bytes
        self.threads = threads
        self._worker: Worker | None = None
        self._work_dir = scratch_dir
        self._names: tuple[str, ...] = ()
        self.lock = threading.RLock()
        """Held during a call, and while the process comes or goes."""

    @property
    def process_id(self) -> int | None:
        """The process that the model is loaded in; None if there is none."""
        worker = self._worker
        return None if worker is None else worker.process_id

    @property
    def names(self) -> tuple[str, ...]:
        """The model's classes, in the order of their ids; none before the first start."""
        return self._names

    def start(self) -> None:
        """Start the process and load the model; if it runs already, nothing is done.

        Raises:
            UserError: the libraries are missing, the file is no detection model or was replaced, or memory ran out.
            YoloError: the process failed.
        """
        with self.lock:
            if self.process_id is not None:
                return
            if self._worker is not None:
                logger.warning("the detection process was ended from outside, starting another")
                self.stop()
            self._work_dir = self.scratch_dir / f"{MODE}-{uuid.uuid4().hex}"
            job = {
                "weights": str(self.weights.resolve()),
                "sha256": self.sha256,
                "device": self.device,
                "max_bytes": self.max_bytes,
                "threads": self.threads,
                "scratch": str(self._work_dir.absolute()),
            }
            try:
                self._worker = Worker(MODE, job, self._work_dir)
                self._names = tuple(_answer(self._worker)["names"])
            except BaseException:
                self.stop()
                raise
            logger.info(
                "model loaded", model=self.weights.name, classes=len(self._names), process=self._worker.process_id
            )

    def find(
        self, images: Sequence[NDArray[np.uint8]], *, confidence: float, nms_iou: float, most: int, classes: list[int]
    ) -> list[NDArray[np.float64]]:
        """Boxes of images.

        Args:
            images: (height, width, 3), uint8, RGB, each.
            confidence: least confidence, 0–1.
            nms_iou: of two boxes of one class that overlap more than this, the more confident is kept.
            most: most boxes of an image.
            classes: ids of the classes to find.

        Returns:
            For each image (k, 6), most confident first: x1, y1, x2, y2 in pixels, confidence, id of the class.

        Raises:
            MemoryError: these images need more memory than there is; fewer may do.
            UserError: the process was killed, or as ``start`` does.
            YoloError: the process failed.
        """
        arguments: dict[str, Any] = {"conf": confidence, "iou": nms_iou, "max_det": most, "classes": classes}
        if self.device != "auto":
            arguments["device"] = self.device
        with self.lock:
            self.start()
            worker = self._worker
            assert worker is not None
            try:
                try:
                    write_request(worker.requests, images, arguments)
                except BrokenPipeError:
                    raise worker.failure() from None
                answer = _answer(worker)
            except BaseException:
                # What is on its way in the pipes no longer fits the next call.
                self.stop()
                raise
        if answer["event"] == "out_of_memory":
            raise MemoryError(f"{len(images)} images need more memory than there is")
        return [np.array(boxes, dtype=np.float64).reshape(-1, 6) for boxes in answer["boxes"]]

    def unload(self) -> None:
        """End the process once it has answered the call that it is at; the next call starts another."""
        with self.lock:
            self.stop()

    def stop(self) -> None:
        """End the process at once, whatever it is at, and remove its folder; a call under way fails.

        The next call starts another.
        """
        # Before the lock: a call that is never answered holds it.
        if (worker := self._worker) is not None:
            worker.kill()
        with self.lock:
            worker, self._worker = self._worker, None
            if worker is not None:
                # It keeps nothing that could be lost, and may be at work or no longer listening.
                worker.kill()
                worker.end()
            if self._work_dir != self.scratch_dir:
                shutil.rmtree(self._work_dir, ignore_errors=True)


def _answer(worker: Worker) -> dict[str, Any]:
    """The next message of the process."""
    answer = worker.next_message()
    if answer is None:
        raise worker.failure()
    if "refused" in answer:
        raise UserError(answer["refused"])
    return answer
