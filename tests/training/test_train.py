import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from al_dagster.core.errors import UserError
from al_dagster.training.config import TrainingConfig
from al_dagster.training.dataset import ExportedDataset
from al_dagster.training.tracking import Tracking
from al_dagster.training.train import train

pytestmark = pytest.mark.slow

KILLED_AT_FIRST_EPOCH = """
import os, signal, subprocess, sys
from pathlib import Path
from al_dagster.training.config import TrainingConfig
from al_dagster.training.dataset import ExportedDataset
from al_dagster.training.tracking import Tracking
from al_dagster.training.train import train
uri, artifacts, export, config, work_dir = sys.argv[1:]
dataset = ExportedDataset(Path(export), "ds_killed", "killed", "1.0", "f" * 64, {"train": 3})
def kill(progress):
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    print(children, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
train(dataset, TrainingConfig.model_validate_json(config), Tracking(uri, Path(artifacts)), Path(work_dir), {}, kill)
"""


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tries to start the training process fails."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")


def test_a_training_gives_registered_weights_and_curves(trained: Any, tracking: Tracking) -> None:
    model = trained.model
    assert (model.model_name, model.model_version, model.reused) == ("shapes", "1", False)
    assert model.weights_path.stat().st_size > 1_000_000
    assert model.weights_path == tracking.weights_path("shapes", "1")
    assert [(step.epoch, step.epochs) for step in trained.progress] == [(1, 1)]
    assert trained.progress[0].losses["cls_loss"] > 0
    assert set(trained.progress[0].metrics) == {"precision", "recall", "map50", "map50_95"}
    history = tracking.client.get_metric_history(model.mlflow_run_id, "train_cls_loss")
    assert [(point.step, point.value) for point in history] == [(1, trained.progress[0].losses["cls_loss"])]
    files = {item.path for item in tracking.client.list_artifacts(model.mlflow_run_id)}
    assert files >= {"train.log", "results.csv", "weights"}


def test_a_dataset_with_nothing_to_evaluate_on_is_refused_before_training(
    make_export: Callable[..., ExportedDataset],
    config: TrainingConfig,
    tracking: Tracking,
    tmp_path: Path,
    no_process: None,
) -> None:
    dataset = make_export(tmp_path / "export", {"train": 1}, name="unmeasurable")
    with (dataset.path / "data.yaml").open("a") as file:
        file.write("val: images/train\n")

    with pytest.raises(UserError, match="has no objects in its test and val splits to evaluate on"):
        train(dataset, config, tracking, tmp_path / "work")

    assert tracking.client.search_experiments(filter_string="name = 'unmeasurable'") == []


def test_training_reaches_for_no_network(trained: Any) -> None:
    assert not trained.network_log.exists(), trained.network_log.read_text()


def test_the_network_guard_of_these_tests_catches_a_connection(network_guard: Path, tmp_path: Path) -> None:
    log = tmp_path / "network.log"
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        environment = os.environ | {"LC_NETWORK_LOG": str(log)}
        assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode != 0
    assert log.read_text()


def test_training_changes_nothing_in_the_export_and_leaves_no_scratch(
    trained: Any, file_hashes: Callable[[Path], dict[str, str]]
) -> None:
    assert file_hashes(trained.dataset.path) == trained.hashes_before
    assert [path.suffix for path in trained.work_dir.iterdir() if path.is_dir()] == []


@pytest.mark.usefixtures("no_process")
def test_the_same_inputs_use_the_standing_model(trained: Any, tracking: Tracking, tmp_path: Path) -> None:
    again = train(trained.dataset, trained.config, tracking, tmp_path)
    assert again == replace(trained.model, reused=True, metrics=again.metrics)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("changed", ["dataset", "config"])
def test_other_inputs_train_again(
    trained: Any, other_content: ExportedDataset, tracking: Tracking, tmp_path: Path, changed: str
) -> None:
    dataset = other_content if changed == "dataset" else trained.dataset
    config = trained.config.model_copy(update={"seed": 1}) if changed == "config" else trained.config
    with pytest.raises(FileNotFoundError):
        train(dataset, config, tracking, tmp_path)
    newest = tracking.runs_of_dataset(dataset.dataset_id)[0]
    assert newest["status"] == "FAILED"
    assert newest["model_name"] is None


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("yolo11n.pt", "there is no such file, and weights are never downloaded"),
        ("/nowhere/best.pt", "there is no such file"),
        ("yolo99n.yaml", "neither a local .pt or .yaml file nor a known architecture"),
        ("yolo11n-seg.yaml", "neither"),
        ("resnet", "neither"),
    ],
)
def test_a_model_that_is_not_here_is_one_sentence(
    dataset: ExportedDataset, tracking: Tracking, tmp_path: Path, model: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        train(dataset, TrainingConfig(model=model), tracking, tmp_path)


def test_after_a_kill_the_worker_is_gone_and_training_again_ends_well(
    trained: Any, tracking: Tracking, tmp_path: Path, as_json: Callable[[TrainingConfig], str]
) -> None:
    """Starts from the standing weights, so that given weights are trained for once, too."""
    config = trained.config.model_copy(
        update={"epochs": 12, "model": str(trained.model.weights_path), "validate_each_epoch": False}
    )
    arguments = [tracking.uri, str(tracking.artifacts_dir), str(trained.dataset.path), as_json(config), str(tmp_path)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_FIRST_EPOCH, *arguments], capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    worker = int(killed.stdout.split()[-1])
    deadline = time.monotonic() + 20
    while _runs(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(worker)
    assert [run["status"] for run in tracking.runs_of_dataset("ds_killed")] == ["RUNNING"]

    dataset = ExportedDataset(trained.dataset.path, "ds_killed", "killed", "1.0", "f" * 64, {"train": 3})
    model = train(dataset, config, tracking, tmp_path)
    assert (model.reused, model.model_version) == (False, "1")
    assert [run["status"] for run in tracking.runs_of_dataset("ds_killed")] == ["FINISHED", "KILLED"]
    assert not trained.network_log.exists(), trained.network_log.read_text()


def _runs(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
        return "Z" not in Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2][:3]
    except (ProcessLookupError, FileNotFoundError):
        return False
