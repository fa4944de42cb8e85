import io
import os
from pathlib import Path

import dagster as dg
import pytest
from dagster_shared.serdes import serialize_value
from PIL import Image

from al_dagster.core.schemas import LAKE_SCHEMAS
from al_dagster.registry.database import open_registry
from al_dagster.registry.review import delete_objects, edit_object, validate_objects

CHAIN = ("sources", "frames", "detections", "masks", "embeddings", "classifications", "objects", "vector_index")
MODEL_STAGES = ("detections", "masks", "embeddings", "classifications")


@pytest.fixture
def labelled(bench):
    """A batch of two pictures, labelled, with its checks."""
    (key,) = bench.claim(bench.home.pictures(2))
    return key, bench.run(key, checks=True)


def test_the_whole_chain_of_a_batch_with_its_checks(bench, labelled):
    key, result = labelled
    assert result.success
    assert {name: bench.metadata(result, name)["dagster/row_count"] for name in CHAIN} == {
        **dict.fromkeys(("sources", "frames"), 2),
        **dict.fromkeys(CHAIN[2:], 4),
    }
    assert bench.calls["detect"] == 2
    assert min(bench.calls["segment"], bench.calls["embed"]) >= 4
    assert {row["category"] for row in bench.objects().values()} == {"disc", "bar"}
    evaluations = result.get_asset_check_evaluations()
    assert {evaluation.check_name: evaluation.passed for evaluation in evaluations} == dict.fromkeys(
        (
            "quarantined_share",
            "boxes_inside_image",
            "no_duplicate_boxes",
            "masks_inside_boxes",
            "embeddings_well_formed",
            "frames_labelled",
            "outbox_drained",
        ),
        True,
    )
    assert {evaluation.metadata["partition"].value for evaluation in evaluations} == {key}


@pytest.mark.parametrize("name", ["나사 M8", "a...b", "x--y/z, 'q'"])
def test_the_name_of_a_project_may_be_any_printable_one(bench, name):
    (key,) = bench.claim(bench.home.pictures(1), bench.home.project(name))
    result = bench.run(key, checks=True)
    assert result.success
    assert all(evaluation.passed for evaluation in result.get_asset_check_evaluations())
    assert {row["project_id"] for row in bench.objects().values()} == {name}


def test_every_table_in_the_lake_has_its_declared_columns(bench, labelled):
    key, _ = labelled
    for name in CHAIN:
        assert bench.lake.read(name, key).schema.equals(LAKE_SCHEMAS[name])


def test_materializations_tell_counts_seconds_reuse_columns_and_a_content_version(bench, labelled):
    _, result = labelled
    for name in CHAIN:
        metadata = bench.metadata(result, name)
        assert metadata["seconds"] >= 0
        assert metadata["dagster/partition_row_count"] == metadata["dagster/row_count"]
        assert metadata["computed"] + metadata["reused"] > 0
        columns = metadata["dagster/column_schema"].columns
        assert [(column.name, column.type) for column in columns] == [
            (field.name, str(field.type)) for field in LAKE_SCHEMAS[name]
        ]
        assert [not column.constraints.nullable for column in columns] == [
            not field.nullable for field in LAKE_SCHEMAS[name]
        ]
        (materialization,) = result.asset_materializations_for_node(name)
        assert materialization.tags["dagster/data_version"] == metadata["content_version"]


def shown(bench, markdown: str) -> bytes:
    """The file behind a picture in the metadata."""
    assert markdown.startswith("![](/pictures/")
    return (bench.home.settings.pictures_dir / markdown.removeprefix("![](/pictures/").removesuffix(")")).read_bytes()


def test_the_event_log_holds_no_picture_and_where_nothing_is_computed_none_is_drawn(bench, labelled):
    key, first = labelled
    pictures = {path: path.stat().st_mtime_ns for path in bench.home.settings.pictures_dir.rglob("*.jpeg")}
    assert len(pictures) >= 2
    again = bench.run(key)
    for result in (first, again):
        for event in result.all_events:
            assert len(serialize_value(event)) < 10_000
    assert {path: path.stat().st_mtime_ns for path in bench.home.settings.pictures_dir.rglob("*.jpeg")} == pictures
    for asset in ("detections", "classifications"):
        assert bench.metadata(first, asset)["contact_sheet"] == bench.metadata(again, asset)["contact_sheet"]


@pytest.mark.parametrize("asset", ["detections", "classifications"])
def test_the_contact_sheet_is_a_small_picture_in_the_metadata(bench, labelled, asset):
    _, result = labelled
    markdown = bench.metadata(result, asset)["contact_sheet"]
    content = shown(bench, markdown)
    assert len(content) <= 100_000
    with Image.open(io.BytesIO(content)) as sheet:
        sheet.load()
        assert sheet.format == "JPEG"


def test_with_nothing_changed_no_model_is_called_and_everything_stays(bench, labelled):
    key, first = labelled
    objects, files = bench.objects(), mask_files(bench)
    again = bench.run(key)
    assert bench.calls == {}
    for name in ("sources", *MODEL_STAGES):
        assert bench.metadata(again, name)["computed"] == 0
    for name in CHAIN:
        assert bench.metadata(again, name)["content_version"] == bench.metadata(first, name)["content_version"]
    assert bench.metadata(again, "objects")["matched"] == 4
    assert bench.metadata(again, "vector_index")["synced"] == 0
    assert bench.objects() == objects
    assert mask_files(bench) == files


def test_a_new_segmenter_makes_masks_and_what_follows_anew_and_no_box(bench, labelled):
    key, first = labelled
    boxes = bench.lake.read("detections", key)
    bench.revisions["segment"] = "another"
    again = bench.run(key)
    assert "detect" not in bench.calls
    assert bench.calls["segment"] >= 4
    assert bench.metadata(again, "masks")["computed"] == 4
    assert bench.metadata(again, "embeddings")["computed"] == 4
    assert bench.metadata(again, "classifications")["computed"] == 2
    assert bench.lake.read("detections", key).equals(boxes)
    assert bench.metadata(again, "objects")["matched"] == 4
    assert {row["segmentation_model"] for row in bench.objects().values()} == {"opencv-grabcut@another"}
    assert bench.metadata(first, "masks")["content_version"] != bench.metadata(again, "masks")["content_version"]


def test_a_new_embedder_makes_vectors_anew_and_no_mask(bench, labelled):
    key, _ = labelled
    bench.revisions["embed"] = "another"
    again = bench.run(key)
    assert set(bench.calls) == {"segment", "embed"}  # the examples of the support set go through both
    assert bench.metadata(again, "masks")["computed"] == 0
    assert bench.metadata(again, "embeddings")["computed"] == 4


def test_a_single_asset_can_be_materialized_by_itself(bench, labelled):
    key, _ = labelled
    result = bench.run(key, only=["embeddings"])
    assert result.success
    assert bench.metadata(result, "embeddings")["reused"] == 4


def test_a_range_run_writes_each_partition_with_its_own_metadata(bench):
    keys = bench.claim(bench.home.pictures(3), batch_size=1)
    tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    result = bench.run(checks=True, tags=tags)
    assert result.success
    for name in CHAIN:
        events = [
            event.event_specific_data.materialization
            for event in result.all_events
            if event.is_step_materialization and event.asset_key == dg.AssetKey(name)
        ]
        events.sort(key=lambda event: keys.index(event.partition))
        assert [event.partition for event in events] == keys
        tables = [bench.lake.read(name, key) for key in keys]
        assert [event.metadata["dagster/partition_row_count"].value for event in events] == [
            table.num_rows for table in tables
        ]
        assert all(table.num_rows for table in tables)
        versions = [event.metadata["content_version"].value for event in events]
        assert len(set(versions)) == 3
        if name in ("detections", "classifications"):
            sheets = {event.metadata["contact_sheet"].value for event in events}
            assert len(sheets) == 3
    assert {evaluation.passed for evaluation in result.get_asset_check_evaluations()} == {True}
    assert bench.calls["detect"] == 3


def test_a_single_run_and_a_range_run_give_the_same_content_version(bench, labelled):
    key, first = labelled
    tags = {"dagster/asset_partition_range_start": key, "dagster/asset_partition_range_end": key}
    again = bench.run(tags=tags)
    assert (
        bench.metadata(again, "embeddings")["content_version"] == bench.metadata(first, "embeddings")["content_version"]
    )


def test_what_people_did_stays_when_everything_is_materialized_again(bench, labelled):
    key, _ = labelled
    validated, edited, deleted, free = sorted(bench.objects())
    with open_registry(bench.home.settings.database_url) as registry:
        validate_objects(registry, [validated], "ann")
        edit_object(registry, edited, "ann", category="bar", bbox=(2.0, 3.0, 20.0, 30.0), is_occluded=True)
        delete_objects(registry, [deleted], "ann")
    before = bench.objects()
    bench.revisions.update(detect="another", segment="another", embed="another")
    again = bench.run(key)
    after = bench.objects()
    assert {name: after[name] for name in (validated, edited)} == {name: before[name] for name in (validated, edited)}
    assert deleted not in after
    assert bench.metadata(again, "objects")["kept"] + bench.metadata(again, "objects")["conflict"] >= 1
    assert after[free]["detection_model"].endswith("@another")


def test_a_picture_that_vanished_after_sources_fails_nothing_and_supersedes_nothing(bench, labelled):
    key, _ = labelled
    before = bench.objects()
    (bench.home.path / "images" / "picture_0.png").unlink()
    bench.revisions["detect"] = "another"
    result = bench.run(key, only=CHAIN[2:])
    assert result.success
    assert bench.metadata(result, "detections")["dagster/row_count"] == 2
    assert bench.metadata(result, "objects")["superseded"] == 0
    assert set(bench.objects()) == set(before)


def test_a_picture_that_vanished_before_a_second_run_is_quarantined_and_its_objects_stay(bench, labelled):
    key, _ = labelled
    before = bench.objects()
    (bench.home.path / "images" / "picture_0.png").unlink()
    result = bench.run(key)
    assert bench.metadata(result, "sources")["quarantined"] == 1
    assert bench.objects() == before


def test_a_check_fails_when_what_is_stored_is_damaged(bench, labelled):
    key, _ = labelled
    masks = bench.lake.read("masks", key)
    (bench.home.settings.masks_dir / masks["mask_path"][0].as_py()).unlink()
    result = bench.run(key, only=["frames"], check_only=[("masks", "masks_inside_boxes")])
    assert result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.metadata["wrong"].value == 1
    assert evaluation.metadata["first_wrong"].value == masks["object_id"][0].as_py()


@pytest.mark.parametrize("damage", ["emptied", "cut off", "flipped"])
def test_damaged_tables_and_masks_are_made_anew_by_labelling_again(bench, labelled, spoil, damage):
    key, _ = labelled
    before = {asset: bench.lake.read(asset, key) for asset in CHAIN if asset != "objects"}
    objects, files = bench.objects(), sorted(bench.home.settings.masks_dir.rglob("*.png"))
    good = [path.read_bytes() for path in files]
    for path in [*files[:2], *(Path(bench.lake.path(asset, key)) for asset in CHAIN)]:
        spoil(path, damage)
    assert bench.run(key, checks=True).success
    assert all(bench.lake.read(asset, key).equals(table) for asset, table in before.items())
    assert bench.lake.read("objects", key).num_rows == len(objects)
    assert {name: row["embedding_version"] for name, row in bench.objects().items()} == {
        name: row["embedding_version"] for name, row in objects.items()
    }
    assert [path.read_bytes() for path in files] == good


def test_a_stage_whose_input_is_damaged_says_which_command_makes_it_anew(bench, labelled, spoil):
    key, _ = labelled
    spoil(Path(bench.lake.path("frames", key)), "cut off")
    result = bench.run(key, only=["detections"], raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    said = str(failure.step_failure_data.error.to_string())
    assert "is damaged; `al ingest --project shapes --again` makes it anew" in said


def test_an_unknown_class_fails_the_run_with_its_sentence(bench):
    project = bench.home.project(classes=["disc", "bar", "unicorn"])
    (key,) = bench.claim(bench.home.pictures(1), project)
    result = bench.run(key, raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_key == "detections"
    error = failure.step_failure_data.error
    messages = [error.message, *([error.cause.message] if error.cause else [])]
    assert any("does not know 'unicorn'; it knows person" in message for message in messages)


def test_an_unknown_batch_is_one_clear_sentence(bench):
    bench.instance.add_dynamic_partitions("batch", ["shapes--20260101T000000-abcd"])
    with pytest.raises(Exception, match="there is no batch 'shapes--20260101T000000-abcd'"):
        bench.run("shapes--20260101T000000-abcd", only=["sources"])


def mask_files(bench) -> dict[str, int]:
    folder = bench.home.settings.masks_dir
    return {str(path.relative_to(folder)): os.stat(path).st_mtime_ns for path in folder.rglob("*.png")}  # noqa: PTH116
