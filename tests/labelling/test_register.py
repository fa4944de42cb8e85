from collections import Counter

import pytest

from al_dagster.registry.batches import unfinished_batches
from al_dagster.registry.objects import get_object, list_objects
from al_dagster.registry.outbox import outbox_counts
from al_dagster.registry.review import delete_object, edit_object, validate_objects


def standing(chain) -> dict[str, dict]:
    return {row["object_id"]: row for row in list_objects(chain.registry, limit=None)}


def test_the_objects_of_a_batch_stand_in_the_registry_with_all_that_made_them(chain):
    result = chain.up_to("objects")
    assert Counter(result.table["outcome"].to_pylist()) == {"inserted": 4}
    masks = {row["object_id"]: row for row in chain.last("masks").to_pylist()}
    version = chain.models.embedder.version_id
    for row in standing(chain).values():
        mask = masks[row["object_id"]]
        assert (row["mask_path"], row["area"], row["polygon"]) == (mask["mask_path"], mask["area"], mask["polygon"])
        assert row["category"] in ("disc", "bar")
        assert row["detection_model"].startswith("opencv-embedded@")
        assert row["segmentation_model"].startswith("opencv-grabcut@")
        assert row["classification_model"].startswith(f"fewshot-{version}@")
        assert (row["embedding_version"], row["batch_key"], row["run_id"]) == (version, chain.key, "run")
    assert outbox_counts(chain.registry)["pending"] == 4


def test_the_batch_is_finished_once_its_objects_are_registered(chain):
    chain.up_to("classifications")
    assert unfinished_batches(chain.registry) == [chain.key]
    chain.objects()
    assert unfinished_batches(chain.registry) == []


def test_registering_again_changes_nothing(chain):
    chain.up_to("objects")
    before = standing(chain)
    again = chain.objects("another run")
    assert set(again.table["outcome"].to_pylist()) == {"matched"}
    assert standing(chain) == before
    assert outbox_counts(chain.registry)["pending"] == 4


def test_unknown_objects_stay_in_the_lake(chain):
    chain.up_to("embeddings")
    chain.project = chain.project.model_copy(
        update={"classification": chain.project.classification.model_copy(update={"threshold": 0.999})}
    )
    chain.classifications()
    result = chain.objects()
    assert (result.table.num_rows, result.figures["unknown"]) == (0, 4)
    assert standing(chain) == {}


def test_objects_that_the_new_labels_no_longer_contain_are_superseded(chain):
    chain.up_to("objects")
    x = {row["object_id"]: row["bbox_x"] for row in standing(chain).values()}
    keep = [key for key in chain.last("detections")["object_id"].to_pylist() if x[key] < 80]
    detections = chain.last("detections")
    chain.tables["detections"] = detections.filter([key in keep for key in detections["object_id"].to_pylist()])
    result = chain.objects()
    assert result.figures["superseded"] == 2
    assert set(standing(chain)) == set(keep)


def test_objects_of_a_frame_whose_picture_vanished_are_not_superseded(chain, home):
    chain.up_to("objects")
    before = standing(chain)
    for stage in ("detections", "masks", "embeddings", "classifications"):
        chain.tables.pop(stage)
    chain.images.clear()
    (home.path / "images" / "picture_0.png").unlink()
    for step in (chain.detections, chain.mask_table, chain.embeddings, chain.classifications):
        step()
    assert chain.last("detections").num_rows == 2
    assert chain.objects().figures["superseded"] == 0
    assert standing(chain) == before


@pytest.mark.parametrize("stage", ["masks", "embeddings"])
def test_objects_of_a_frame_that_is_labelled_in_part_are_not_superseded(chain, stage):
    chain.up_to("objects")
    before = standing(chain)
    chain.tables[stage] = chain.tables[stage].slice(1)
    result = chain.objects()
    assert (result.table.num_rows, result.figures["superseded"]) == (2, 0)
    assert standing(chain) == before


def test_what_people_did_stays_when_the_batch_is_labelled_again(chain):
    chain.up_to("objects")
    first, second, third, _ = sorted(standing(chain))
    validate_objects(chain.registry, [first], "ann")
    edit_object(chain.registry, second, "ann", category="disc", bbox=(1.0, 2.0, 30.0, 40.0))
    delete_object(chain.registry, third, "ann")
    before = {key: get_object(chain.registry, key) for key in (first, second, third)}
    for stage in ("detections", "masks", "embeddings", "classifications"):
        chain.tables.pop(stage)
    for step in (chain.detections, chain.mask_table, chain.embeddings, chain.classifications, chain.objects):
        step()
    assert {key: get_object(chain.registry, key) for key in (first, second, third)} == before
    assert third not in standing(chain)
