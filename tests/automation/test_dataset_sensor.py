import sqlite3
import subprocess
import sys

import dagster as dg
import pytest

from al_dagster.automation.sensors import dataset_sensor
from al_dagster.definitions import defs
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.database import open_registry
from al_dagster.registry.datasets import list_datasets, save_definition
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import edit_object, validate_objects


@pytest.fixture
def registry(home):
    with open_registry(home.settings.database_url) as registry:
        yield registry


def define(registry, **values: object) -> None:
    definition = {"name": "shapes", "project": "shapes", "auto_build": True, "formats": ["coco"], **values}
    save_definition(registry, definition["name"], definition)


def label(daemon, registry, count: int = 3, first: int = 0) -> None:
    folder = daemon.home.pictures(count, f"images_{first}", first)
    (key,) = take_folder(registry, folder, daemon.home.project(), batch_size=256)
    daemon.instance.add_dynamic_partitions("batch", [key])
    assert daemon.execute("label_batch", key).success


def build(daemon) -> dg.RunRequest:
    """Tick, and execute the one run that is requested."""
    (request,) = daemon.tick(dataset_sensor).run_requests
    result = daemon.execute(request.job_name, request.partition_key)
    assert result.success
    assert all(evaluation.passed for evaluation in result.get_asset_check_evaluations())
    return request


def skipped(daemon) -> str:
    result = daemon.tick(dataset_sensor)
    assert isinstance(result, dg.SkipReason)
    return result.skip_message


def test_a_dataset_is_built_once_and_again_only_when_its_labels_have_changed(daemon, registry):
    define(registry)
    label(daemon, registry)
    first = build(daemon)
    assert (first.job_name, first.partition_key) == ("build_dataset", "shapes")
    assert "every dataset is up to date" in skipped(daemon)
    changed = list_objects(registry)[0]
    other = "bar" if changed["category"] == "disc" else "disc"
    edit_object(registry, changed["object_id"], "ann", category=other)
    second = build(daemon)
    assert second.run_key != first.run_key
    assert "every dataset is up to date" in skipped(daemon)
    assert [record.version for record in list_datasets(registry, "shapes")] == ["1.0", "1.1"]


def test_labels_that_change_back_bring_the_old_version_back_and_then_it_rests(daemon, registry):
    define(registry)
    label(daemon, registry)
    build(daemon)
    changed = list_objects(registry)[0]
    other = "bar" if changed["category"] == "disc" else "disc"
    keys = set()
    for category in (other, changed["category"], other):
        edit_object(registry, changed["object_id"], "ann", category=category)
        keys.add(build(daemon).run_key)
        assert "every dataset is up to date" in skipped(daemon)
    assert len(keys) == 3


def test_until_it_is_built_the_same_content_is_requested_under_the_same_key(daemon, registry):
    define(registry)
    label(daemon, registry)
    requests = [daemon.tick(dataset_sensor).run_requests[0] for _ in range(2)]
    assert requests[0].run_key == requests[1].run_key
    assert daemon.instance.get_dynamic_partitions("dataset") == ["shapes"]


def test_with_auto_train_a_model_is_trained_as_well(daemon, registry):
    define(registry, auto_train=True, formats=["yolo"])
    label(daemon, registry)
    (request,) = daemon.tick(dataset_sensor).run_requests
    assert request.job_name == "build_and_train"


def test_a_definition_without_auto_build_is_left_to_people(daemon, registry):
    define(registry, auto_build=False)
    label(daemon, registry)
    assert skipped(daemon) == "every dataset is up to date"


def test_it_waits_while_batches_are_being_labelled(daemon, registry):
    define(registry)
    label(daemon, registry)
    job = defs.resolve_job_def("label_batch")
    run = daemon.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert skipped(daemon) == "waiting for the batches that are being labelled"
    daemon.instance.report_run_failed(run)
    assert len(daemon.tick(dataset_sensor).run_requests) == 1


def test_a_definition_that_cannot_be_built_is_reported_and_the_others_go_on(daemon, registry):
    define(registry, name="broken", project="nowhere")
    assert "nowhere" in skipped(daemon)
    define(registry)
    label(daemon, registry)
    (request,) = daemon.tick(dataset_sensor).run_requests
    assert request.partition_key == "shapes"


def test_a_cursor_that_another_version_left_does_not_stop_it(daemon, registry):
    define(registry)
    label(daemon, registry)
    daemon.cursors[dataset_sensor.name] = '{"shapes": "f00d"}'
    build(daemon)
    assert skipped(daemon) == "every dataset is up to date"


def test_a_dataset_that_selects_nothing_is_said_at_each_tick_until_something_does(daemon, registry):
    define(registry, filter={"is_validated": True})
    label(daemon, registry)
    for _ in range(2):
        assert "selects no object" in skipped(daemon)
    validate_objects(registry, [found["object_id"] for found in list_objects(registry)], "ann")
    build(daemon)
    assert skipped(daemon) == "every dataset is up to date"


def test_what_another_process_changed_is_built(daemon, registry):
    define(registry)
    label(daemon, registry)
    build(daemon)
    assert skipped(daemon) == "every dataset is up to date"
    changed = list_objects(registry)[0]["object_id"]
    code = "\n".join(
        (
            "from al_dagster.registry.database import open_registry",
            "from al_dagster.registry.review import delete_objects",
            f"with open_registry({registry.url!r}) as registry:",
            f"    delete_objects(registry, [{changed!r}], 'ann')",
        )
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    build(daemon)


def test_a_tick_with_nothing_changed_selects_nothing(daemon, registry):
    define(registry)
    label(daemon, registry)
    build(daemon)
    assert skipped(daemon) == "every dataset is up to date"
    # No door of the program: whoever selected now would see another label.
    with sqlite3.connect(home_database(registry)) as connection:
        connection.execute("UPDATE objects SET category_id = 3 - category_id")
    assert skipped(daemon) == "every dataset is up to date"
    edit_object(registry, list_objects(registry)[0]["object_id"], "ann", bbox=(2, 2, 30, 30))
    build(daemon)


def home_database(registry) -> str:
    return registry.url.removeprefix("sqlite:///")
