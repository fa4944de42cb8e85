"""The demonstration, small but real: labels, a dataset, a trained and evaluated model, and a second run that reuses."""

import json
import os
from contextlib import nullcontext

import dagster as dg
import pytest

from al_dagster.core.settings import load_settings
from al_dagster.demo.run import run_demo
from al_dagster.training.tracking import Tracking

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AL_HOME", str(tmp_path_factory.mktemp("demo")))
        patch.delenv("DAGSTER_HOME", raising=False)
        yield load_settings()
        os.environ.pop("DAGSTER_HOME", None)


@pytest.fixture(scope="module")
def outcome(home):
    return run_demo(home, lambda title: nullcontext(), scenes=10, epochs=1)


@pytest.fixture(scope="module")
def run(home, outcome):
    with dg.DagsterInstance.get() as instance:
        yield instance.get_runs(filters=dg.RunsFilter(job_name="build_and_train"), limit=1)[0]


def materialization(asset):
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_files_objects_and_quarantined_are_counted(outcome):
    assert (outcome["files"], outcome["quarantined"]) == (18, 3)
    assert outcome["objects"] >= 70


def test_labels_are_good_against_the_ground_truth(outcome):
    assert outcome["label_precision"] >= 0.8
    assert outcome["label_recall"] >= 0.75


def test_the_outcome_is_written(home, outcome):
    assert json.loads((home.home / "demo.json").read_text()) == outcome
    assert {"files", "objects", "quarantined", "label_precision", "label_recall", "map50", "seconds"} <= set(outcome)


def test_mlflow_and_dagster_name_each_others_runs(home, run, outcome):
    model = Tracking(home.tracking_uri, home.artifacts_dir).run_lineage(run.tags["al.mlflow_run_id"])
    assert model["tags"]["al.dagster_run_id"] == run.run_id
    assert model["model_name"] == "parts"
    assert 0 <= outcome["map50"] <= 1


def test_the_model_was_trained_on_the_dataset_that_stands(run, outcome):
    dataset, trained = materialization("dataset"), materialization("trained_model")
    assert trained["reused"] is False
    assert dataset["images_train"] + dataset["images_val"] + dataset["images_test"] == 10
    assert outcome["dataset"]["version"] == dataset["version"] == "1.0"


def test_the_evaluation_shows_its_figures_and_plots(run):
    evaluation = materialization("evaluation")
    assert evaluation["map50"] >= evaluation["map50_95"] >= 0
    assert all("/pictures/" in evaluation[name] for name in ("precision_recall", "confusion_matrix"))
    assert {record.data["name"] for record in evaluation["per_class"].records} == {"nut", "bolt", "washer", "screw"}


def test_a_second_run_reuses_everything(home, outcome):
    second = run_demo(home, lambda title: nullcontext(), scenes=10, epochs=1)
    unchanged = ("files", "objects", "quarantined", "label_precision", "label_recall", "dataset", "model")
    assert {name: second[name] for name in unchanged} == {name: outcome[name] for name in unchanged}
    assert second["reused"]["model"] is True
    assert second["reused"]["units"] > 0
    assert outcome["reused"]["units"] == 0
