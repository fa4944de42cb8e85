import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from al_dagster.yolo.process import worker_environment
from al_dagster.yolo.resident import ResidentModel

BUILDER = Path(__file__).parents[2] / "benchmarks" / "checkpoints_yolo.py"

LOADING = """
import json, os, resource, runpy, shutil, sys
network = []
sys.addaudithook(lambda event, arguments: network.append(event) if event.startswith("socket.") else None)
import numpy as np
import torch
from pathlib import Path
from al_dagster.core.memory import is_out_of_memory
from al_dagster.yolo.library import BOX_TASKS, RefusedError, load_weights, prepare_library
torch.set_num_threads(1)
prepare_library()
build = runpy.run_path(sys.argv[1])["build_yolo"]
build(Path("tiny.pt"), ["Red Box", "green disc", "blue bar"])
build(Path("outlines.pt"), ["leaf"], architecture="yolo11n-seg.yaml")
for name in ("yolov5s.pt", "o'brien's.pt"):
    shutil.copy("tiny.pt", name)

class Harmful:
    def __init__(self, folder):
        self.folder = folder
    def __reduce__(self):
        return os.mkdir, (self.folder,)

torch.save({"model": Harmful("run-1")}, "harmful.pt")
torch.save({"model": Harmful("run-2")}, "harmful-old-format.pt", _use_new_zipfile_serialization=False)
checkpoint = torch.load("tiny.pt", weights_only=False)
checkpoint["model"].hidden = Harmful("run-3")
torch.save(checkpoint, "harmful-within.pt")

def outcome(file, *tasks, sha256=None):
    try:
        model = load_weights(str(Path(file).resolve()), *tasks, sha256=sha256)
    except RefusedError as error:
        return str(error)
    (result,) = model.predict(np.zeros((64, 64, 3), np.uint8), verbose=False, conf=0.001)
    return [model.names[key] for key in sorted(model.names)] if result.boxes is not None else "no boxes"

def lacks_memory(file):
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**20, resource.RLIM_INFINITY))
    models = []
    try:
        while True:
            models.append(load_weights(str(Path(file).resolve())))
    except Exception as error:
        return f"{is_out_of_memory(error)} {error!r}"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

files = sorted(str(file) for file in Path().glob("*.pt"))
found = {"outcome": {file: outcome(file, BOX_TASKS) for file in files}}
found["as_training_start"] = outcome("outlines.pt")
found["with_another_content"] = outcome("tiny.pt", BOX_TASKS, sha256="0" * 64)
found["memory_ran_out"] = lacks_memory("tiny.pt")
found["left"] = sorted(str(file) for file in Path().glob("*.pt"))
found["executed"] = sorted(str(path) for path in Path().glob("run-*"))
torch.load("harmful-within.pt", weights_only=False)
found["executed_if_unrestricted"] = sorted(str(path) for path in Path().glob("run-*"))
found["network"] = network
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Loaded:
    folder: Path
    found: dict[str, Any]


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Weights of several kinds, and what came of loading each in one process with the worker's environment."""
    folder = tmp_path_factory.mktemp("loaded")
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(BUILDER)],
        cwd=folder,
        env=worker_environment(folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Loaded(folder, json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="session")
def weights(loaded: Loaded) -> Path:
    return loaded.folder / "tiny.pt"


@pytest.fixture(scope="session")
def make_resident() -> Callable[..., ResidentModel]:
    def make(weights: Path, scratch_dir: Path, **options: Any) -> ResidentModel:
        sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        return ResidentModel(weights, scratch_dir, sha256=sha256, **({"device": "cpu", "threads": 1} | options))

    return make
