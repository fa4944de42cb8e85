import os
import subprocess
import sys

import dagster as dg
import pytest

from al_dagster.definitions import defs

BATCH = ("sources", "frames", "detections", "masks", "embeddings", "classifications", "objects", "vector_index")
DATASET = ("dataset", "dataset_export", "trained_model", "evaluation")
HEAVY = (
    "torch",
    "transformers",
    "ultralytics",
    "mlflow",
    "chromadb",
    "sqlalchemy",
    "pandas",
    "cv2",
    "supervision",
    "pyarrow",
)


@pytest.fixture(scope="module")
def graph() -> dg.AssetsDefinition:
    return defs.resolve_asset_graph()


def node(graph, name: str):
    return graph.get(dg.AssetKey(name))


def test_the_graph_has_these_assets_in_these_groups(graph):
    groups = {key.to_user_string(): node(graph, key.to_user_string()).group_name for key in graph.get_all_asset_keys()}
    assert groups == {
        **dict.fromkeys(("sources", "frames"), "ingest"),
        **dict.fromkeys(("detections", "masks", "embeddings", "classifications"), "label"),
        **dict.fromkeys(("objects", "vector_index"), "register"),
        "calibration": "review",
        **dict.fromkeys(("dataset", "dataset_export"), "dataset"),
        **dict.fromkeys(("trained_model", "evaluation"), "model"),
    }


def test_assets_are_partitioned_have_a_code_version_and_say_what_they_are(graph):
    for names, partitions in ((BATCH, "batch"), (("calibration",), "project"), (DATASET, "dataset")):
        for name in names:
            found = node(graph, name)
            assert found.partitions_def.name == partitions
            assert found.code_version
            assert found.description
            assert found.kinds


def test_each_asset_is_made_from_these(graph):
    parents = {
        name: {key.to_user_string() for key in node(graph, name).parent_keys}
        for name in (*BATCH, *DATASET, "calibration")
    }
    assert parents["sources"] == set()
    assert parents["frames"] == {"sources"}
    assert parents["detections"] == {"frames"}
    assert parents["masks"] == {"frames", "detections"}
    assert parents["embeddings"] == {"frames", "detections", "masks"}
    assert parents["classifications"] == {"frames", "detections", "masks", "embeddings"}
    assert parents["objects"] == {"frames", "detections", "masks", "embeddings", "classifications"}
    assert parents["vector_index"] == {"objects"}
    assert parents["dataset"] == {"objects"}
    assert parents["calibration"] == {"objects"}
    assert parents["dataset_export"] == {"dataset"}


def test_a_backfill_of_batches_is_one_run_over_the_range(graph):
    for name in BATCH:
        assert node(graph, name).backfill_policy == dg.BackfillPolicy.single_run()


def test_models_and_the_vector_store_are_used_by_one_run_at_a_time(graph):
    pools = {name: node(graph, name).pools for name in BATCH}
    assert {name for name, pool in pools.items() if pool == {"gpu"}} >= {"detections", "masks", "embeddings"}
    assert {name for name, pool in pools.items() if pool == {"vectors"}} == {"vector_index"}


def test_the_checks_look_at_these_assets(graph):
    checks = {(key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys}
    assert checks == {
        ("sources", "quarantined_share"),
        ("detections", "boxes_inside_image"),
        ("detections", "no_duplicate_boxes"),
        ("masks", "masks_inside_boxes"),
        ("embeddings", "embeddings_well_formed"),
        ("objects", "frames_labelled"),
        ("vector_index", "outbox_drained"),
        ("dataset", "no_split_leakage"),
        ("dataset_export", "export_equals_registry"),
    }


@pytest.mark.parametrize(
    ("job", "assets"),
    [
        ("label_batch", BATCH),
        ("calibrate", ("calibration",)),
        ("freeze_dataset", ("dataset",)),
        ("build_dataset", ("dataset", "dataset_export")),
        ("export_version", ("dataset_export",)),
        ("build_and_train", DATASET),
        ("train_version", ("dataset_export", "trained_model", "evaluation")),
        ("evaluate_model", ("evaluation",)),
    ],
)
def test_the_jobs_materialize_these_assets(job, assets):
    selected = defs.resolve_job_def(job).asset_layer.selected_asset_keys
    assert {key.to_user_string() for key in selected} == set(assets)


def test_sensors_and_schedules_run_by_themselves():
    repository = defs.get_repository_def()
    assert {sensor.name: sensor.default_status for sensor in repository.sensor_defs} == {
        "inbox_sensor": dg.DefaultSensorStatus.RUNNING,
        "calibration_sensor": dg.DefaultSensorStatus.RUNNING,
        "refresh_sensor": dg.DefaultSensorStatus.RUNNING,
        "dataset_sensor": dg.DefaultSensorStatus.RUNNING,
    }
    (schedule,) = repository.schedule_defs
    assert (schedule.name, schedule.job_name) == ("nightly_reconcile", "reconcile_vectors")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING


def test_loading_the_code_location_imports_nothing_heavy(tmp_path):
    code = f"import sys, al_dagster.definitions; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_dagster_finds_the_definitions_valid(tmp_path):
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-m", "al_dagster.definitions"]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "AL_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
