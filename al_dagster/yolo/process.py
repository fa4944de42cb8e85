"""The parent's side of the process of ultralytics: start it, listen to it, end it."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

import structlog

from al_dagster.core.errors import UserError
from al_dagster.core.memory import tells_of_too_little_memory
from al_dagster.yolo.errors import YoloError

log = structlog.get_logger(__name__)

PASSED_ON = (
    *("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "TEMP", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
)
"""Variables that the process inherits; keys, tokens and other libraries' settings stay outside."""

PASSED_ON_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "PYTORCH_")
"""Those of CUDA say, among other things, which GPU has which number."""

STOP_SECONDS = 5.0
LAST_LINES = 15
SMALLER_TRAINING = "ran out of memory: lower 'batch' or 'imgsz' of the training configuration"
MEMORY_ADVICE = {
    "train": SMALLER_TRAINING,
    "predict": SMALLER_TRAINING,
    "detect": "was killed or ran out of memory: close other programs or use a smaller model, then run it again",
}


def require_train_extra() -> None:
    """Check that ultralytics and torch are installed.

    Raises:
        UserError: they are not.
    """
    if any(importlib.util.find_spec(name) is None for name in ("torch", "torchvision", "ultralytics")):
        raise UserError("YOLO models need the 'train' extra: pip install 'al_dagster[train]'")


class Worker:
    """A process of ultralytics; it ends with this one, and whatever it has started ends with it.

    Args:
        mode: ``train``, ``predict`` or ``detect``.
        job: what it needs, as JSON; ``scratch`` names a folder that it removes when this process is gone.
        work_dir: folder for the job, the process's log and the libraries' settings, and its working folder.

    Raises:
        UserError: the libraries are missing.
    """

    def __init__(self, mode: str, job: Mapping[str, Any], work_dir: Path) -> None:
        require_train_extra()
        self._mode = mode
        self._log_file = work_dir / f"{mode}.log"
        work_dir.mkdir(parents=True, exist_ok=True)
        job_file = work_dir / f"{mode}.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "al_dagster.yolo.worker", mode, str(job_file.resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=work_dir,
                env=worker_environment(work_dir),
                # Ctrl-C reaches the parent alone, which then ends the process itself.
                start_new_session=True,
            )
        self._watcher = threading.Thread(target=self._watch, name=f"{mode}-watcher", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        """Wait for the process, then end what it has left, which may hold its pipes open."""
        self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def process_id(self) -> int | None:
        """Its number; None once it has ended."""
        return self._process.pid if self._process.poll() is None else None

    @property
    def requests(self) -> IO[bytes]:
        """Where requests are written to."""
        assert self._process.stdin is not None
        return self._process.stdin

    def next_message(self) -> dict[str, Any] | None:
        """The next message, which is waited for; None where there are no more, be it within a message.

        What the process logs comes as messages too and is logged here, so that it is written like everything else.
        """
        assert self._process.stdout is not None
        while (line := self._process.stdout.readline()).endswith(b"\n"):
            message: dict[str, Any] = json.loads(line)
            if message["event"] != "log":
                return message
            log.log(message["level"], message["text"], process=self._mode)
        return None

    def kill(self) -> None:
        """Have it end at once, whatever it is at."""
        self._process.kill()

    def wait(self) -> int:
        """Wait until it has ended by itself; returns its exit status."""
        self._watcher.join()
        status: int = self._process.returncode
        return status

    def end(self) -> None:
        """End it, if it still runs."""
        with contextlib.suppress(BrokenPipeError):
            self.requests.close()
        self._watcher.join(STOP_SECONDS)
        if self._watcher.is_alive():
            self.kill()
            self._watcher.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def failure(self) -> Exception:
        """What it failed of, when it has ended by itself.

        Returns:
            A UserError where memory ran out or it was killed; else a YoloError with the last lines of its log.
        """
        status = self.wait()
        log = self._log_file.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
        tail = [line.rstrip() for line in log.splitlines() if line.strip()][-LAST_LINES:]
        if status == -signal.SIGKILL or any(map(tells_of_too_little_memory, tail)):
            return UserError(f"{self._mode} {MEMORY_ADVICE[self._mode]}")
        return YoloError("\n".join([f"{self._mode} ended with status {status}; its last lines:", *tail]))


def run_worker(
    mode: str, job: Mapping[str, Any], work_dir: Path, on_message: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Do a job in a process of its own, which ends with this one.

    Args:
        mode: ``train`` or ``predict``.
        job: what the worker needs, see ``Worker``.
        work_dir: folder for the job, the process's log and the libraries' settings.
        on_message: called with each message of the process, as it arrives.

    Returns:
        The worker's result.

    Raises:
        UserError: the libraries are missing, the worker refuses the job, or it needs more memory than there is.
        YoloError: the process failed; the message ends with its last lines.
        BaseException: what the handler of a signal raises that came meanwhile; the process is gone then.
    """
    result: dict[str, Any] | None = None
    worker = Worker(mode, job, work_dir)
    with _stopped_by_signals(worker):
        try:
            while (message := worker.next_message()) is not None:
                if message["event"] == "result":
                    result = message
                else:
                    on_message(message)
            status = worker.wait()
        finally:
            worker.end()
    if status != 0 or result is None:
        raise worker.failure()
    if "refused" in result:
        raise UserError(result["refused"])
    return result


@contextmanager
def _stopped_by_signals(worker: Worker) -> Iterator[None]:
    """Have a signal that would end this process kill the worker, and raise what it raises once the worker is gone.

    An exception that a handler raises wherever the program stands can be lost, in a finalizer or a callback of a
    library; then a training would go on for an epoch or to its end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        worker.kill()

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    replaced = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in replaced:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
        for first, frame in came[:1]:
            replaced[signal.Signals(first)](first, frame)


def worker_environment(work_dir: Path) -> dict[str, str]:
    """The environment of the process: little of this one's, and nothing that lets it reach the network."""
    inherited = {
        name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }
    return inherited | {
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str((work_dir / "config").resolve()),
        "YOLO_VERBOSE": "true",
        # A file of weights is a pickle: only layers of ultralytics and torch are taken out of it.
        "ULTRALYTICS_SAFE_LOAD": "1",
        "MPLCONFIGDIR": str((work_dir / "config" / "matplotlib").resolve()),
        "MPLBACKEND": "Agg",
        "HF_HUB_OFFLINE": "1",
        # Whatever would still ask another host is refused on this one.
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
        "no_proxy": "localhost,127.0.0.1",
        "DO_NOT_TRACK": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        # Threads that spin while they wait make a shared machine several times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
    }
