from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from al_dagster.core.errors import UserError
from al_dagster.registry.datasets import (
    dataset_objects,
    freeze_dataset,
    get_dataset,
    get_definition,
    list_datasets,
    list_definitions,
    mark_exported,
    save_definition,
)
from al_dagster.registry.tables import Dataset, Object, Source

DEFINITION = {
    "name": "parts",
    "project": "bench",
    "filter": {"categories": ["nut"], "min_confidence": 0.4},
    "split": {"train": 0.7, "val": 0.2, "test": 0.1},
    "formats": ["yolo", "coco"],
}


@pytest.fixture
def objects(registry) -> list[str]:
    names = [f"obj_{i}" for i in range(4)]
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 9, "bbox_h": 9}
    with registry.session() as session:
        session.execute(insert(Source).values(source_id="src_1", source_type="image", group_key="src_1"))
        session.execute(insert(Object), [{"object_id": name, "source_id": "src_1", **box} for name in names])
    return names


def freeze(registry, assignments, content_hash="a", name="parts", definition=DEFINITION, **others):
    return freeze_dataset(
        registry,
        name=name,
        definition=definition,
        content_hash=content_hash,
        run_id="run-1",
        assignments=assignments,
        **others,
    )


def test_a_frozen_dataset_is_kept_with_its_objects_splits_and_definition(registry, objects):
    splits = ["train", "train", "val", "test"]
    record = freeze(registry, list(zip(objects, splits, strict=True)), category_mapping={"nut": 0})
    assert record.created
    assert record.dataset_id.startswith("ds_")
    assert (record.name, record.version, record.object_count, record.run_id) == ("parts", "1.0", 4, "run-1")
    assert (record.definition, record.category_mapping) == (DEFINITION, {"nut": 0})
    assert dataset_objects(registry, record.dataset_id) == list(zip(objects, splits, strict=True))


def test_the_filter_and_split_are_kept_in_the_fields_of_the_data_model(registry, objects):
    record = freeze(registry, [(objects[0], "train")])
    with registry.reader() as session:
        row = session.get(Dataset, record.dataset_id)
        assert row.filter_config["categories"] == ["nut"]
        assert row.filter_config["min_confidence"] == 0.4
        assert row.filter_config["project_id"] == "bench"
        assert row.split_config == DEFINITION["split"]
        assert row.format == "yolo"


def test_a_definition_without_a_split_has_the_usual_one(registry, objects):
    record = freeze(registry, [(objects[0], "train")], definition={"name": "parts"})
    with registry.reader() as session:
        assert session.get(Dataset, record.dataset_id).split_config == {"train": 0.8, "val": 0.1, "test": 0.1}


def test_the_same_content_is_the_standing_dataset_and_new_content_the_next_version(registry, objects):
    first = freeze(registry, [(objects[0], "train")], "a")
    second = freeze(registry, [(objects[1], "val")], "b")
    again = freeze(registry, [(objects[0], "train")], "a")
    other = freeze(registry, [(objects[0], "train")], "a", name="other")
    assert (first.version, second.version, other.version) == ("1.0", "1.1", "1.0")
    assert (again.dataset_id, again.version, again.created) == (first.dataset_id, "1.0", False)
    assert len({first.dataset_id, second.dataset_id, other.dataset_id}) == 3
    assert dataset_objects(registry, first.dataset_id) == [(objects[0], "train")]


def test_a_version_whose_content_comes_back_is_the_current_one_again(registry, objects):
    first = freeze(registry, [(objects[0], "train")], "a")
    second = freeze(registry, [(objects[1], "train")], "b")
    assert get_dataset(registry, "parts").version == second.version == "1.1"
    again = freeze(registry, [(objects[0], "train")], "a")
    assert (again.dataset_id, again.created) == (first.dataset_id, False)
    assert get_dataset(registry, "parts").version == "1.0"
    assert freeze(registry, [(objects[2], "train")], "c").version == "1.2"


def test_version_ten_comes_after_nine(registry, objects):
    versions = [freeze(registry, [(objects[0], "train")], str(i)).version for i in range(12)]
    assert versions == [f"1.{i}" for i in range(12)]
    assert get_dataset(registry, "parts").version == "1.11"
    assert [record.version for record in list_datasets(registry, "parts")] == versions


def test_a_dataset_is_found_by_id_by_name_and_by_version(registry, objects):
    first = freeze(registry, [(objects[0], "train")], "a")
    second = freeze(registry, [(objects[0], "train")], "b")
    assert get_dataset(registry, first.dataset_id).version == "1.0"
    assert get_dataset(registry, "parts").dataset_id == second.dataset_id
    assert get_dataset(registry, "parts@1.0").dataset_id == first.dataset_id


@pytest.mark.parametrize("name", ["screws", "parts@7.0", "@1.0", "ds_aaaaaaaaaaaa"])
def test_an_unknown_dataset_is_an_error_that_lists_the_known_ones(registry, objects, name):
    freeze(registry, [(objects[0], "train")])
    with pytest.raises(UserError, match=r"known: parts@1\.0"):
        get_dataset(registry, name)


def test_without_datasets_the_error_says_how_to_build_one(registry):
    with pytest.raises(UserError, match="al dataset build"):
        get_dataset(registry, "parts")


def test_an_object_that_is_not_there_leaves_no_half_dataset(registry, objects):
    with pytest.raises(IntegrityError):
        freeze(registry, [(objects[0], "train"), ("obj_nobody", "val")])
    assert list_datasets(registry) == []
    assert freeze(registry, [(objects[0], "train")]).version == "1.0"


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ([("obj_0", "train"), ("obj_0", "test")], "one split.*obj_0"),
        ([("obj_0", "holdout")], "train, val, test, got holdout"),
    ],
)
def test_splits_that_leak_or_have_no_name_are_refused(registry, objects, assignments, message):
    with pytest.raises(ValueError, match=message):
        freeze(registry, assignments)
    assert list_datasets(registry) == []


def test_an_empty_selection_can_be_frozen(registry):
    record = freeze(registry, [])
    assert record.object_count == 0
    assert dataset_objects(registry, record.dataset_id) == []


def test_freezing_the_same_content_at_once_makes_one_dataset(registry, objects):
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(freeze, registry, [(objects[0], "train")], f"{i % 2}") for i in range(8)]
        records = [future.result() for future in futures]
    assert sum(record.created for record in records) == 2
    assert [record.version for record in list_datasets(registry)] == ["1.0", "1.1"]


def test_an_export_is_noted(registry, objects, tmp_path):
    record = freeze(registry, [(objects[0], "train")])
    assert (record.export_path, record.exported_at) == (None, None)
    mark_exported(registry, record.dataset_id, tmp_path / "parts")
    exported = get_dataset(registry, record.dataset_id)
    assert exported.export_path == str(tmp_path / "parts")
    assert exported.exported_at >= exported.created_at


def test_an_export_of_an_unknown_dataset_is_an_error(registry):
    with pytest.raises(UserError, match="ds_none"):
        mark_exported(registry, "ds_none", "exports/x")


def test_a_definition_is_kept_by_name_and_replaced_by_the_next(registry):
    save_definition(registry, "parts", DEFINITION)
    save_definition(registry, "faces", {"name": "faces"})
    save_definition(registry, "parts", {**DEFINITION, "project": "table"})
    assert get_definition(registry, "parts")["project"] == "table"
    assert list(list_definitions(registry)) == ["faces", "parts"]


def test_a_defined_dataset_without_a_version_says_how_to_build_one(registry):
    save_definition(registry, "parts", {"project": "parts"})
    with pytest.raises(UserError, match=r"^dataset 'parts' has no version yet: `al dataset build parts` makes one$"):
        get_dataset(registry, "parts")


def test_an_unknown_definition_is_an_error_that_lists_the_known_ones(registry):
    with pytest.raises(UserError, match="al dataset create"):
        get_definition(registry, "parts")
    save_definition(registry, "faces", {})
    with pytest.raises(UserError, match="known: faces"):
        get_definition(registry, "parts")
