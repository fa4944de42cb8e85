"""The parent's side of the training process: start it, listen to it, end it."""

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
from al_dagster.training.errors import TrainingError

PASSED_ON = (
    *("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "TEMP", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_HOME", "CUDA_VISIBLE_DEVICES"),
)
"""Variables that the process inherits; keys, tokens and other libraries' settings stay outside."""

PASSED_ON_PREFIXES = ("LC_", "NVIDIA_", "PYTORCH_")

STOP_SECONDS = 5.0
LAST_LINES = 15
OUT_OF_MEMORY = ("out of memory", "outofmemoryerror", "memoryerror", "can't allocate memory")


def require_train_extra() -> None:
    """Check that the training libraries are installed.

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
        TrainingError: the process failed; the message ends with its last lines.
    """
    require_train_extra()
    work_dir.mkdir(parents=True, exist_ok=True)
    job_file, log_file = work_dir / f"{mode}.json", work_dir / f"{mode}.log"
    job_file.write_text(json.dumps(job), encoding="utf-8")
    result: dict[str, Any] | None = None
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "al_dagster.training.worker", mode, str(job_file.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=work_dir,
            env=worker_environment(work_dir),
            text=True,
            encoding="utf-8",
            # Ctrl-C reaches the parent alone, which then ends the process itself.
            start_new_session=True,
        )
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
            _end(process)
    if status != 0 or result is None:
        raise _failure(mode, status, log_file)
    if "refused" in result:
        raise UserError(result["refused"])
    return result


def worker_environment(work_dir: Path) -> dict[str, str]:
    """The environment of the training process: little of this one's, and nothing that lets it reach the network."""
    inherited = {
        name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }
    return inherited | {
        "YOLO_OFFLINE": "1",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_CONFIG_DIR": str((work_dir / "config").resolve()),
        "YOLO_VERBOSE": "true",
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


def _end(process: "subprocess.Popen[str]") -> None:
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


def _failure(mode: str, status: int, log_file: Path) -> Exception:
    log = log_file.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    tail = [line.rstrip() for line in log.splitlines() if line.strip()][-LAST_LINES:]
    if status == -9 or any(sign in line.lower() for line in tail for sign in OUT_OF_MEMORY):
        return UserError(f"{mode} ran out of memory: lower 'batch' or 'imgsz' of the training configuration")
    return TrainingError("\n".join([f"{mode} ended with status {status}; its last lines:", *tail]))
