"""A detection model that stays loaded in the process of ultralytics and answers many calls."""

import json
import shutil
import subprocess
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.yolo.process import end_worker, failure, start_worker
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
        device: ``cpu``, ``cuda:N``, or ``auto``: the first GPU, else the CPU.
        threads: CPU threads; 0: ``OMP_NUM_THREADS``, or all cores.
    """

    def __init__(self, weights: Path, scratch_dir: Path, *, device: str = "auto", threads: int = 0) -> None:
        self.weights = weights
        self.scratch_dir = scratch_dir
        self.device = device
        self.threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._work_dir = scratch_dir
        self._names: tuple[str, ...] = ()
        self._lock = threading.RLock()

    @property
    def process_id(self) -> int | None:
        """The process that the model is loaded in; None if there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def names(self) -> tuple[str, ...]:
        """The model's classes, in the order of their ids; the process is started if it has never been.

        Raises:
            UserError, YoloError: as ``start`` does.
        """
        with self._lock:
            if not self._names:
                self.start()
            return self._names

    def start(self) -> None:
        """Start the process and load the model; if it runs already, nothing is done.

        Raises:
            UserError: the libraries are missing, the file is no detection model, or memory ran out.
            YoloError: the process failed.
        """
        with self._lock:
            if self.process_id is not None:
                return
            if self._process is not None:
                logger.warning("the detection process was ended from outside, starting another")
                self.stop()
            self._work_dir = self.scratch_dir / f"{MODE}-{uuid.uuid4().hex}"
            job = {"weights": str(self.weights.resolve()), "threads": self.threads}
            try:
                self._process = start_worker(MODE, job, self._work_dir)
                self._names = tuple(self._answer(self._process)["names"])
            except BaseException:
                self.stop()
                raise
            logger.info("model loaded", model=self.weights.name, classes=len(self._names), process=self._process.pid)

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
        with self._lock:
            self.start()
            process = self._process
            assert process is not None
            assert process.stdin is not None
            try:
                try:
                    write_request(process.stdin, images, arguments)
                except BrokenPipeError:
                    raise failure(MODE, process.wait(), self._work_dir) from None
                answer = self._answer(process)
            except BaseException:
                # What is on its way in the pipes no longer fits the next call.
                self.stop()
                raise
        if answer["event"] == "out_of_memory":
            raise MemoryError(f"{len(images)} images need more memory than there is")
        return [np.array(boxes, dtype=np.float64).reshape(-1, 6) for boxes in answer["boxes"]]

    def stop(self) -> None:
        """End the process and remove its folder; the next call starts another."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                # It keeps nothing that could be lost, and may be at work or no longer listening.
                process.kill()
                end_worker(process)
            if self._work_dir != self.scratch_dir:
                shutil.rmtree(self._work_dir, ignore_errors=True)

    def _answer(self, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
        """The next message of the process."""
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise failure(MODE, process.wait(), self._work_dir)
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise UserError(answer["refused"])
        return answer
