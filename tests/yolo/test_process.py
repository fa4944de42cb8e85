import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from al_dagster.core.errors import UserError
from al_dagster.yolo.errors import YoloError
from al_dagster.yolo.predict import predict
from al_dagster.yolo.process import Worker, require_train_extra, run_worker, worker_environment

STARTS_A_CHILD = """
import subprocess, sys
from pathlib import Path
from typing import Any
if "al_dagster.yolo.worker" in sys.orig_argv:
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    Path({file!r}).write_text(str(child.pid))
"""
IS_KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
WAITS = "import time; time.sleep(60)"

STARTS_A_WORKER_AND_IS_KILLED = """
import os, signal, sys, time
from pathlib import Path
from typing import Any
from al_dagster.yolo.process import Worker
Worker("detect", {}, Path(sys.argv[1]))
while not Path(sys.argv[2]).exists():
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def child_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The worker starts a process of its own, which holds the worker's pipes, and whose number is written here."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(STARTS_A_CHILD.format(file=str(tmp_path / "child")))
    return tmp_path / "child"


def add_to_start(folder: Path, code: str) -> None:
    with (folder / "sitecustomize.py").open("a") as file:
        file.write(f"    {code}\n")


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 20
    while runs(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(process)


def runs(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2][:3]
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_secrets_and_other_libraries_settings_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ULTRALYTICS_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "RANK", "YOLO_CONFIG_DIR"):
        monkeypatch.setenv(name, "from outside")
    environment = worker_environment(tmp_path)
    assert "from outside" not in environment.values()
    assert environment["YOLO_OFFLINE"] == "1"
    assert environment["PATH"] == os.environ["PATH"]


def test_the_gpus_have_the_same_numbers_in_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert given.items() <= worker_environment(tmp_path).items()


def test_without_the_extra_training_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(UserError, match=r"pip install 'al_dagster\[train\]'"):
        require_train_extra()


def test_weights_that_are_none_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"broken\.pt cannot be read as a YOLO model"):
        predict(tmp_path / "broken.pt", [], tmp_path, imgsz=64, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]


def test_a_failed_process_shows_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os.write(2, b'the last line\\n'); os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(YoloError, match=r"(?s)predict ended with status 7; its last lines:.*the last line"):
        predict(tmp_path / "best.pt", [], tmp_path, imgsz=64)


def test_a_process_killed_by_the_system_for_its_memory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="ran out of memory: lower 'batch' or 'imgsz'"):
        predict(tmp_path / "best.pt", [], tmp_path, imgsz=64)


def test_a_killed_process_takes_along_what_it_has_started_and_is_not_waited_for(
    tmp_path: Path, child_file: Path
) -> None:
    add_to_start(tmp_path, IS_KILLED)
    with pytest.raises(UserError, match="ran out of memory"):
        run_worker("predict", {}, tmp_path / "work", lambda message: None)
    wait_until_gone(int(child_file.read_text()))


def test_ending_a_process_ends_what_it_has_started(tmp_path: Path, child_file: Path) -> None:
    add_to_start(tmp_path, WAITS)
    worker = Worker("detect", {}, tmp_path / "work")
    deadline = time.monotonic() + 20
    while not (child_file.exists() and child_file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    child = int(child_file.read_text())
    assert runs(child)
    worker.kill()
    worker.end()
    assert worker.process_id is None
    wait_until_gone(child)


def test_what_a_process_has_started_ends_when_the_parent_is_killed(tmp_path: Path, child_file: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", STARTS_A_WORKER_AND_IS_KILLED, str(tmp_path / "work"), str(child_file)],
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    wait_until_gone(int(child_file.read_text()))


@pytest.mark.parametrize("said", [b'{"event": "result", "na', b'{"event": "images", "done": 1, "total": 2}'])
def test_a_message_that_is_cut_off_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import os, signal; os.write(1, {said!r}); os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(YoloError, match="predict ended with status 7"):
        run_worker("predict", {}, tmp_path / "work", lambda message: pytest.fail(f"{message}"))


@pytest.mark.parametrize(
    "line", ["std::bad_alloc", "RuntimeError: DefaultCPUAllocator: not enough memory", "cudaError: ALLOC_FAILED"]
)
def test_a_process_whose_last_lines_tell_of_too_little_memory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import os; os.write(2, {line.encode()!r}); os._exit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="ran out of memory: lower"):
        run_worker("predict", {}, tmp_path / "work", lambda message: None)


def test_what_the_process_logs_is_logged_here_with_its_warnings_as_what_was_done(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'al_dagster.yolo.worker' in sys.orig_argv:\n"
        "    import logging, al_dagster.yolo.jobs as jobs\n"
        "    def speak(job, emit, requests):\n"
        "        logging.getLogger('ultralytics').warning('no labels')\n"
        "        logging.getLogger('ultralytics').info('epoch 1')\n"
        "        return {'done': True}\n"
        "    jobs.JOBS['train'] = speak\n"
    )
    with structlog.testing.capture_logs() as logged:
        assert run_worker("train", {}, tmp_path / "work", lambda message: None)["done"]
    assert any(line["log_level"] == "info" and "no labels" in line["event"] for line in logged)
    assert {"event": "epoch 1", "log_level": "debug", "process": "train"} in logged


class SendsSignalWhileItIsFinalized:
    """What a handler raises in a finalizer is lost."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


SAYS_SOMETHING_AND_WAITS = """import time; print('{"event": "progress"}', flush=True); time.sleep(200)"""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_ends_the_process_also_where_its_exception_would_be_lost(tmp_path: Path, child_file: Path) -> None:
    add_to_start(tmp_path, SAYS_SOMETHING_AND_WAITS)
    heard: list[str] = []

    def on_message(message: dict[str, Any]) -> None:
        heard.append(message["event"])
        SendsSignalWhileItIsFinalized(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_worker("predict", {}, tmp_path / "work", on_message)
    assert heard == ["progress"]
    assert signal.getsignal(signal.SIGINT) is before
    wait_until_gone(int(child_file.read_text()))


def test_whatever_would_still_ask_another_host_is_refused_on_this_one(tmp_path: Path) -> None:
    environment = worker_environment(tmp_path)
    ask = "import urllib.request; urllib.request.urlopen('http://example.com', timeout=60)"
    said = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=False)
    assert "Connection refused" in said.stderr
