import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.yolo.resident import ResidentModel

STARTS_AND_IS_KILLED = """
import os, signal, sys
from pathlib import Path
from al_dagster.yolo.resident import ResidentModel
model = ResidentModel(Path(sys.argv[1]), Path(sys.argv[2]), device="cpu")
model.start()
print(model.process_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def resident(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResidentModel]:
    model = ResidentModel(weights, tmp_path_factory.mktemp("scratch"), device="cpu", threads=1)
    yield model
    model.stop()


def find(model: ResidentModel) -> list[NDArray[np.float64]]:
    images = [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8) for seed in range(2)]
    return model.find(images, confidence=0.05, nms_iou=0.7, most=300, classes=[0, 2])


def test_one_process_answers_many_calls(resident: ResidentModel) -> None:
    assert resident.process_id is None
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
