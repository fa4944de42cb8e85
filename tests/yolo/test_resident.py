import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.yolo.errors import YoloError
from al_dagster.yolo.resident import ResidentModel

pytestmark = pytest.mark.slow

STARTS_AND_IS_KILLED = """
import hashlib, os, signal, sys
from pathlib import Path
from al_dagster.yolo.resident import ResidentModel
weights = Path(sys.argv[1])
sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
model = ResidentModel(weights, Path(sys.argv[2]), sha256=sha256, device="cpu")
model.start()
assert len(list(model.scratch_dir.iterdir())) == 1
print(model.process_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def resident(
    weights: Path, make_resident: Callable[..., ResidentModel], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ResidentModel]:
    model = make_resident(weights, tmp_path_factory.mktemp("scratch"))
    yield model
    model.stop()


def find(model: ResidentModel) -> list[NDArray[np.float64]]:
    images = [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8) for seed in range(2)]
    return model.find(images, confidence=0.05, nms_iou=0.7, most=300, classes=[0, 2])


def test_one_process_answers_many_calls(resident: ResidentModel) -> None:
    assert (resident.process_id, resident.names) == (None, ())
    first = find(resident)
    process = resident.process_id
    again = find(resident)
    assert resident.process_id == process
    assert resident.names == ("Red Box", "green disc", "blue bar")
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(len(boxes) > 0 and set(boxes[:, 5]) <= {0.0, 2.0} for boxes in first)
    assert resident.find([], confidence=0.05, nms_iou=0.7, most=300, classes=[0]) == []


def test_a_process_killed_between_calls_is_replaced(resident: ResidentModel) -> None:
    before = find(resident)
    process = resident.process_id
    assert process is not None
    os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while resident.process_id is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    after = find(resident)
    assert resident.process_id not in (None, process)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert len(list(resident.scratch_dir.iterdir())) == 1


def test_a_process_killed_during_a_call_is_one_sentence_and_the_next_call_starts_another(
    resident: ResidentModel,
) -> None:
    resident.start()
    process = resident.process_id
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    killer = threading.Timer(1.0, os.kill, (process, signal.SIGKILL))
    killer.start()
    with pytest.raises(UserError, match="detect was killed or ran out of memory: close other programs"):
        find(resident)
    killer.join()
    assert resident.process_id is None
    assert len(find(resident)) == 2


@contextmanager
def stuck_call(model: ResidentModel) -> Iterator["Future[list[NDArray[np.float64]]]"]:
    """A call under way that the process does not answer."""
    model.start()
    process = model.process_id
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(find, model)
        try:
            time.sleep(0.3)
            assert not call.done()
            yield call
        finally:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def test_stopping_does_not_wait_for_a_call_that_is_never_answered(resident: ResidentModel) -> None:
    with stuck_call(resident) as call:
        stopping = threading.Thread(target=resident.stop)
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
        with pytest.raises(UserError, match="detect was killed"):
            call.result(10)
    assert resident.process_id is None
    assert list(resident.scratch_dir.iterdir()) == []


def test_unloading_waits_for_the_call_that_is_under_way(resident: ResidentModel) -> None:
    with stuck_call(resident) as call:
        process = resident.process_id
        assert process is not None
        unloading = threading.Thread(target=resident.unload)
        unloading.start()
        unloading.join(0.3)
        assert unloading.is_alive()
        assert not call.done()
        os.kill(process, signal.SIGCONT)
        assert len(call.result(20)) == 2
        unloading.join(10)
        assert not unloading.is_alive()
    assert resident.process_id is None


def test_weights_that_were_replaced_are_refused_when_the_process_starts_again(
    weights: Path, make_resident: Callable[..., ResidentModel], tmp_path: Path
) -> None:
    file = tmp_path / "best.pt"
    shutil.copyfile(weights, file)
    model = make_resident(file, tmp_path / "scratch")
    model.start()
    model.unload()
    shutil.copyfile(weights.with_name("outlines.pt"), file)
    with pytest.raises(UserError, match=r"best\.pt was replaced while it was in use; run it again$"):
        find(model)
    assert (model.process_id, len(model.names)) == (None, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_the_process_holds_itself_to_the_budget_before_the_model_goes_to_a_gpu(
    weights: Path, make_resident: Callable[..., ResidentModel], tmp_path: Path
) -> None:
    """Where there is no GPU it fails at that, while without a budget it does not ask for the GPU so early."""
    with pytest.raises(YoloError, match="in limit_gpu_memory"):
        make_resident(weights, tmp_path, device="cuda:1", max_bytes=2**30).start()
    without = make_resident(weights, tmp_path, device="cuda:1")
    without.start()
    without.stop()


def test_stopping_ends_the_process_and_leaves_no_scratch(resident: ResidentModel) -> None:
    resident.start()
    process = resident.process_id
    assert process is not None
    resident.stop()
    _wait_until_gone(process)
    assert list(resident.scratch_dir.iterdir()) == []


def test_the_process_ends_with_its_parent(weights: Path, tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", STARTS_AND_IS_KILLED, str(weights), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    _wait_until_gone(int(killed.stdout.split()[-1]))
    assert list(tmp_path.iterdir()) == []


def _wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + 20
    while _runs(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(process)


def _runs(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2][:3]
    except (ProcessLookupError, FileNotFoundError):
        return False
