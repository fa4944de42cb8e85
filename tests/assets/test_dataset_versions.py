import pytest

from al_dagster.assets.partitions import datasets
from al_dagster.registry.database import open_registry
from al_dagster.registry.datasets import get_dataset, save_definition
from al_dagster.registry.objects import list_objects
from al_dagster.registry.review import delete_objects
from al_dagster.registry.tables import FrameLabel


@pytest.fixture
def registry(home):
    with open_registry(home.settings.database_url) as registry:
        yield registry


def test_an_old_version_is_exported_and_checked_as_it_was_frozen(bench, registry):
    (key,) = bench.claim(bench.home.pictures(3, "images"))
    bench.run(key)
    save_definition(registry, "shapes", {"name": "shapes", "project": "shapes", "formats": ["coco"]})
    bench.instance.add_dynamic_partitions(str(datasets.name), ["shapes"])
    first = bench.metadata(bench.run("shapes", only=("dataset",), checks=True), "dataset")
    delete_objects(registry, [list_objects(registry)[0]["object_id"]], "ann")
    second = bench.run("shapes", only=("dataset", "dataset_export"), checks=True)

    of_old = {"dataset_export": {"config": {"version": "1.0"}}}
    old = bench.run("shapes", only=("dataset_export",), checks=True, ops=of_old)

    assert [first["version"], bench.metadata(second, "dataset")["version"]] == ["1.0", "1.1"]
    made = bench.metadata(old, "dataset_export")
    assert (made["version"], made["dataset_id"]) == ("1.0", first["dataset_id"])
    for result in (second, old):
        assert result.success
        assert all(check.passed for check in result.get_asset_check_evaluations())
    (checked,) = old.get_asset_check_evaluations()
    assert checked.metadata["objects"].value == first["objects"]
    assert get_dataset(registry, "shapes").version == "1.1"
    assert get_dataset(registry, "shapes@1.0").export_path.endswith("shapes/1.0")


def test_a_dataset_says_what_it_left_out_and_what_its_filter_compared(bench, registry):
    (key,) = bench.claim(bench.home.pictures(3, "images"))
    bench.run(key)
    last = list_objects(registry)[-1]
    with registry.session() as session:
        session.query(FrameLabel).filter_by(frame_id=last["frame_id"]).update(
            {"labelled_at": None, "error": "has vanished"}
        )
    definition = {"name": "shapes", "project": "shapes", "filter": {"min_confidence": 0.01}}
    save_definition(registry, "shapes", definition)
    bench.instance.add_dynamic_partitions(str(datasets.name), ["shapes"])

    made = bench.metadata(bench.run("shapes", only=("dataset",)), "dataset")

    assert (made["images"], made["left_out_frames"]) == (2, 1)
    assert made["left_out"] == "1 frame not labelled: has vanished (1)"
    assert made["confidence"].startswith("min_confidence compares raw confidence of ")
