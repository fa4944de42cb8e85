"""The parent's side of the process of ultralytics: start it, listen to it, end it."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from al_dagster.core.errors import UserError
from al_dagster.yolo.errors import YoloError

PASSED_ON = (
    *("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "TEMP", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"),
)
"""Variables that the process inherits; keys, tokens and other libraries' settings stay outside."""

PASSED_ON_PREFIXES = ("LC_", "NVIDIA_", "PYTORCH_")

STOP_SECONDS = 5.0
LAST_LINES = 15
OUT_OF_MEMORY = ("out of memory", "outofmemoryerror", "memoryerror", "can't allocate memory")
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
        raise UserError("training needs the 'train' extra: pip install 'al_dagster[train]'")


def run_worker(
    mode: str, job: Mapping[str, Any], work_dir: Path, on_message: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Do a job in a process of its own, which ends with this one.

    Args:
        mode: ``train`` or ``predict``.
        job: what the worker needs, as JSON.
        work_dir: folder for the job, the process's log and the libraries' settings.
        on_message: called with each message of the process, as it arrives.

    Returns:
        The worker's result.

    Raises:
        UserError: the libraries are missing, the worker refuses the job, or it needs more memory than there is.
        YoloError: the process failed; the message ends with its last lines.
    """
    result: dict[str, Any] | None = None
    process = start_worker(mode, job, work_dir)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if message["event"] == "result":
                result = message
            else:
                on_message(message)
        status = process.wait()
    finally:
        end_worker(process)
    if status != 0 or result is None:
        raise failure(mode, status, work_dir)
    if "refused" in result:
        raise UserError(result["refused"])
    return result


def start_worker(mode: str, job: Mapping[str, Any], work_dir: Path) -> "subprocess.Popen[bytes]":
    """Start the process, with pipes to its input and from its answers.

    Args:
        mode: ``train``, ``predict`` or ``detect``.
        job: what the worker needs, as JSON.
        work_dir: folder for the job, the process's log and the libraries' settings, and its working folder.

    Raises:
        UserError: the libraries are missing.
    """
    require_train_extra()
    work_dir.mkdir(parents=True, exist_ok=True)
    job_file = work_dir / f"{mode}.json"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    with _log_file(work_dir, mode).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "al_dagster.yolo.worker", mode, str(job_file.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=work_dir,
            env=worker_environment(work_dir),
            # Ctrl-C reaches the parent alone, which then ends the process itself.
            start_new_session=True,
        )


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
        "DO_NOT_TRACK": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        # Threads that spin while they wait make a shared machine several times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
    }


def end_worker(process: "subprocess.Popen[bytes]") -> None:
    """End the process and whatever it started, if it still runs."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def failure(mode: str, status: int, work_dir: Path) -> Exception:
    """What a process that ended by itself with this status failed of.

    Returns:
        A UserError where memory ran out or the process was killed; else a YoloError with the last lines of its log.
    """
    log = _log_file(work_dir, mode).read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    tail = [line.rstrip() for line in log.splitlines() if line.strip()][-LAST_LINES:]
    if status == -9 or any(sign in line.lower() for line in tail for sign in OUT_OF_MEMORY):
        return UserError(f"{mode} {MEMORY_ADVICE[mode]}")
    return YoloError("\n".join([f"{mode} ended with status {status}; its last lines:", *tail]))


def _log_file(work_dir: Path, mode: str) -> Path:
    return work_dir / f"{mode}.log"
