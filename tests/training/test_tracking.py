import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from al_dagster.core.errors import UserError
from al_dagster.training.dataset import ExportedDataset
from al_dagster.training.tracking import FINGERPRINT_TAG, Tracking


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://ann:se:cret@host:5000/x", "http://ann:***@host:5000/x"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////data/a:b@c.db", "sqlite:////data/a:b@c.db"),
    ],
)
def test_a_password_in_the_address_is_not_shown(uri: str, shown: str, tmp_path: Path) -> None:
    assert Tracking(uri, tmp_path).address == shown


def test_two_processes_may_open_a_new_database_at_once(
    store: "tuple[Tracking, subprocess.Popen[str]]",
) -> None:
    tracking, other = store
    output, errors = other.communicate(timeout=60)
    assert other.returncode == 0, errors
    assert tracking.client.get_experiment_by_name("another process").experiment_id == output.strip()


def test_a_run_says_what_it_was_made_from(trained: Any, tracking: Tracking) -> None:
    lineage = tracking.run_lineage(trained.model.mlflow_run_id)
    dataset: ExportedDataset = trained.dataset
    assert lineage["tags"]["al.dataset_id"] == dataset.dataset_id
    assert lineage["tags"]["al.content_hash"] == dataset.content_hash
    assert lineage["tags"]["dagster_run_id"] == "run-1"
    assert lineage["params"]["imgsz"] == "64"
    assert lineage["params"]["images_train"] == "3"
    (frozen,) = lineage["datasets"]
    assert frozen["digest"] == dataset.content_hash[:36]
    assert str(dataset.path) in frozen["source"]
    assert (lineage["model_name"], lineage["model_version"]) == ("shapes", "1")
    assert tracking.run_of_model("shapes", "1") == trained.model.mlflow_run_id


def test_the_runs_of_a_dataset_are_found(trained: Any, tracking: Tracking) -> None:
    runs = tracking.runs_of_dataset(trained.dataset.dataset_id)
    assert trained.model.mlflow_run_id in [run["run_id"] for run in runs]
    assert tracking.runs_of_dataset("ds_unknown") == []


def test_artifacts_stand_in_the_folder_that_was_given(trained: Any, tracking: Tracking) -> None:
    assert trained.model.weights_path.is_relative_to(tracking.artifacts_dir)


def test_a_finished_run_without_readable_weights_is_not_used_again(
    make_export: Callable[..., ExportedDataset], tracking: Tracking, tmp_path: Path
) -> None:
    dataset = make_export(tmp_path / "export", {"train": 1}, name="lost")
    run_id = tracking.start_run(dataset, params={}, tags={FINGERPRINT_TAG: "lost"}, run_name="lost")
    tracking.end_run(run_id)
    assert tracking.finished_run("lost") is None
    (tmp_path / "best.pt").write_bytes(b"weights")
    tracking.log_file(run_id, tmp_path / "best.pt", "weights")
    assert tracking.finished_run("lost") == run_id
    model = tracking.register(run_id, "lost")
    assert tracking.register(run_id, "lost") == model
    tracking.weights_path(*model).unlink()
    with pytest.raises(UserError, match="weights of lost version 1 cannot be read"):
        tracking.weights_path(*model)


@pytest.mark.parametrize("damage", ["emptied", "cut off", "flipped"])
def test_damaged_weights_are_not_used_again_and_the_error_says_what_trains_them(
    make_export: Callable[..., ExportedDataset], tracking: Tracking, tmp_path: Path, spoil: Callable, damage: str
) -> None:
    name = f"spoilt {damage}"
    dataset = make_export(tmp_path / "export", {"train": 1}, name=name)
    run_id = tracking.start_run(dataset, params={}, tags={FINGERPRINT_TAG: name}, run_name=name)
    (tmp_path / "best.pt").write_bytes(b"the weights of a model")
    tracking.log_weights(run_id, tmp_path / "best.pt")
    tracking.end_run(run_id)
    model = tracking.register(run_id, name)
    assert tracking.finished_run(name) == run_id
    assert model in tracking.models()
    spoil(tracking.weights_path(*model), damage)
    assert tracking.finished_run(name) is None
    with pytest.raises(UserError, match=f"or are damaged: `al train {name}` trains it again"):
        tracking.weights_path(*model)


def test_a_run_of_another_machine_is_not_taken_for_abandoned(
    make_export: Callable[..., ExportedDataset], tracking: Tracking, tmp_path: Path
) -> None:
    dataset = make_export(tmp_path / "export", {"train": 1}, name="shared")
    tags = {FINGERPRINT_TAG: "shared"}
    tracking.start_run(dataset, params={}, tags={**tags, "al.host": "another"}, run_name="far")
    here = tracking.start_run(dataset, params={}, tags=tags, run_name="near")
    assert tracking.close_abandoned("shared") == [here]
    assert tracking.run_lineage(here)["status"] == "KILLED"


def test_an_unknown_run_or_model_is_one_sentence(tracking: Tracking) -> None:
    with pytest.raises(UserError, match="there is no MLflow run nothing"):
        tracking.run_lineage("nothing")
    with pytest.raises(UserError, match="has no version 9 of nothing"):
        tracking.weights_path("nothing", "9")
    with pytest.raises(UserError, match="has no version 9 of nothing"):
        tracking.run_of_model("nothing", "9")
