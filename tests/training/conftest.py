import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from al_dagster.training.config import TrainingConfig
from al_dagster.training.dataset import ExportedDataset
from al_dagster.training.tracking import Tracking
from al_dagster.training.train import Progress, TrainedModel, train

CLASSES = ("red box", "green disc")

GUARD = """
import os, sys
WATCHED = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"}
def watch(event, arguments):
    if event in WATCHED:
        with open(os.environ["LC_NETWORK_LOG"], "a") as log:
            log.write(f"{event} {arguments[1:]}\\n")
        raise OSError("this process must not reach the network")
sys.addaudithook(watch)
"""


@dataclass(frozen=True)
class Trained:
    model: TrainedModel
    dataset: ExportedDataset
    config: TrainingConfig
    work_dir: Path
    progress: list[Progress]
    network_log: Path
    hashes_before: dict[str, str]


def draw_export(root: Path, splits: dict[str, int], name: str = "shapes") -> ExportedDataset:
    """96×64 pictures of one red box and one green disc each; the first is a JPEG with bytes after its end."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for index in range(count):
            image = np.full((64, 96, 3), rng.integers(90, 130), np.uint8)
            x, y = (int(value) for value in rng.integers(2, 24, 2))
            cv2.rectangle(image, (x, y), (x + 19, y + 14), (0, 0, 255), -1)
            cv2.circle(image, (x + 60, y + 15), 10, (0, 255, 0), -1)
            labels = [f"0 {(x + 10) / 96} {(y + 7.5) / 64} {20 / 96} {15 / 64}"]
            labels.append(f"1 {(x + 60.5) / 96} {(y + 15.5) / 64} {21 / 96} {21 / 64}")
            (root / "labels" / split / f"{index}.txt").write_text("\n".join(labels) + "\n")
            if index == 0:
                encoded = cv2.imencode(".jpg", image)[1].tobytes() + b"maker's notes"
                (root / "images" / split / "0.jpg").write_bytes(encoded)
            else:
                cv2.imwrite(str(root / "images" / split / f"{index}.png"), image)
    data = {split: f"images/{split}" for split in splits} | {"names": dict(enumerate(CLASSES))}
    (root / "data.yaml").write_text(yaml.safe_dump(data))
    return ExportedDataset(root, f"ds_{name}", name, "1.0", hashlib.sha256(name.encode()).hexdigest(), splits)


def hash_files(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def make_export() -> Callable[..., ExportedDataset]:
    return draw_export


@pytest.fixture(scope="session")
def file_hashes() -> Callable[[Path], dict[str, str]]:
    return hash_files


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ExportedDataset:
    return draw_export(tmp_path_factory.mktemp("export") / "shapes", {"train": 3, "val": 2, "test": 2})


@pytest.fixture(scope="session")
def config() -> TrainingConfig:
    return TrainingConfig(epochs=1, imgsz=64, batch=3, nbs=3, device="cpu", threads=1, mosaic=0.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Tracking, subprocess.Popen[str]]":
    """A new MLflow database, opened at the same time by this process and by another."""
    home = tmp_path_factory.mktemp("mlflow")
    arguments = [f"sqlite:///{home / 'mlflow.db'}", str(home / "mlartifacts")]
    code = (
        "import sys; from pathlib import Path; from al_dagster.training.tracking import Tracking\n"
        "client = Tracking(sys.argv[1], Path(sys.argv[2])).client\n"
        "print(client.create_experiment('another process'))"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    tracking = Tracking(arguments[0], Path(arguments[1]))
    tracking.client.search_experiments()
    return tracking, other


@pytest.fixture(scope="module")
def tracking(store: "tuple[Tracking, subprocess.Popen[str]]") -> Tracking:
    return store[0]


@pytest.fixture(scope="module")
def network_guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Makes every Python process that these tests start fail at its first step on to the network, and log it."""
    folder = tmp_path_factory.mktemp("guard")
    (folder / "sitecustomize.py").write_text(GUARD)
    log = folder / "network.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        # A name with a prefix that the training process is let to inherit.
        patch.setenv("LC_NETWORK_LOG", str(log))
        yield log


@pytest.fixture(scope="module")
def trained(
    dataset: ExportedDataset,
    config: TrainingConfig,
    tracking: Tracking,
    network_guard: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """The one training that most tests look at."""
    work_dir = tmp_path_factory.mktemp("work")
    progress: list[Progress] = []
    before = hash_files(dataset.path)
    model = train(dataset, config, tracking, work_dir, {"dagster_run_id": "run-1"}, progress.append)
    return Trained(model, dataset, config, work_dir, progress, network_guard, before)


@pytest.fixture
def as_json() -> Callable[[TrainingConfig], str]:
    return lambda config: json.dumps(config.model_dump(mode="json"))


@pytest.fixture
def other_content(dataset: ExportedDataset) -> ExportedDataset:
    return replace(dataset, content_hash="0" * 64, version="1.1")
