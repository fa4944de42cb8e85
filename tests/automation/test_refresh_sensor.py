"""Moved boxes are followed up by themselves, through whatever door they were moved."""

import dagster as dg
import pytest

from al_dagster.automation.sensors import refresh_sensor
from al_dagster.definitions import defs
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.database import open_registry
from al_dagster.registry.objects import get_object, list_objects
from al_dagster.registry.review import edit_object
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vision.hog_color import HogColorEmbedder


@pytest.fixture
def registry(daemon):
    """Two pictures, labelled and indexed."""
    with open_registry(daemon.home.settings.database_url) as registry:
        (key,) = take_folder(registry, daemon.home.pictures(2), daemon.home.project(), batch_size=256)
        daemon.instance.add_dynamic_partitions("batch", [key])
        assert daemon.execute("label_batch", key).success
        yield registry


def move(registry, name: str, by: float) -> None:
    row = get_object(registry, name)
    box = (row["bbox_x"] + by, row["bbox_y"], row["bbox_w"] - by, row["bbox_h"])
    edit_object(registry, name, "ann", bbox=box)


def asked(daemon) -> list[dg.RunRequest]:
    return daemon.tick(refresh_sensor).run_requests


def refresh(daemon, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    return daemon.execute("refresh", run_config=request.run_config)


def test_moved_objects_are_asked_for_until_they_are_refreshed_and_then_found_in_the_store(daemon, registry):
    assert daemon.tick(refresh_sensor).skip_message == "every object has its vector"
    first, second = [row["object_id"] for row in list_objects(registry)][:2]
    move(registry, first, 4.0)
    (request,) = asked(daemon)
    assert [again.run_key for again in asked(daemon)] == [request.run_key]
    move(registry, second, 4.0)
    (both,) = asked(daemon)
    assert both.run_key != request.run_key
    result = refresh(daemon, both)
    assert result.output_for_node("refresh_stale_objects") == {"refreshed": 2, "changed": 0, "unreadable": 0}
    assert result.output_for_node("sync_vector_stores")["synced"] > 0
    assert daemon.tick(refresh_sensor).skip_message == "every object has its vector"
    embedder = HogColorEmbedder()
    with ChromaStore(daemon.home.settings.chroma_dir, embedder.version_id, embedder.dimension) as store:
        assert {first, second} <= set(store.ids())
    move(registry, first, 2.0)
    assert asked(daemon)[0].run_key not in (request.run_key, both.run_key)


def test_an_object_that_cannot_be_refreshed_is_not_asked_for_under_another_key(daemon, registry):
    row = list_objects(registry)[0]
    move(registry, row["object_id"], 4.0)
    (request,) = asked(daemon)
    for path in (daemon.home.path / "images").iterdir():
        path.unlink()
    result = refresh(daemon, request)
    assert result.output_for_node("refresh_stale_objects") == {"refreshed": 0, "changed": 0, "unreadable": 1}
    assert [again.run_key for again in asked(daemon)] == [request.run_key]


def test_no_second_refresh_is_asked_for_while_one_runs(daemon, registry):
    move(registry, list_objects(registry)[0]["object_id"], 4.0)
    job = defs.resolve_job_def("refresh")
    (request,) = asked(daemon)
    run = daemon.instance.create_run_for_job(job, run_config=request.run_config, status=dg.DagsterRunStatus.STARTED)
    assert daemon.tick(refresh_sensor).skip_message == "waiting for the refresh that is running"
    daemon.instance.report_run_failed(run)
    assert len(asked(daemon)) == 1
