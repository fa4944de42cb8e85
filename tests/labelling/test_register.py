import os
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pytest

from al_dagster.core.project import UNKNOWN
from al_dagster.core.schemas import CLASSIFICATIONS
from al_dagster.labelling.quality import frames_labelled
from al_dagster.registry.batches import mark_labelled, unfinished_batches
from al_dagster.registry.frame_labels import count_frames, list_frames, mark_background, unmark_background
from al_dagster.registry.objects import get_object, list_objects
from al_dagster.registry.outbox import outbox_counts
from al_dagster.registry.review import delete_objects, edit_object, validate_objects


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


def test_the_batch_is_not_finished_by_its_objects_alone(chain):
    chain.up_to("objects")
    assert unfinished_batches(chain.registry) == [chain.key]
    chain.finish()
    assert unfinished_batches(chain.registry) == []


def test_a_batch_is_not_finished_while_a_vector_waits(chain):
    chain.up_to("objects")
    mark_labelled(chain.registry, chain.key)
    assert unfinished_batches(chain.registry) == [chain.key]
    chain.finish()
    chain.objects("another run")
    assert unfinished_batches(chain.registry) == []
    edited = chain.last("embeddings").to_pylist()
    edited[0]["embedding"] = edited[1]["embedding"]
    chain.tables["embeddings"] = pa.Table.from_pylist(edited, schema=chain.last("embeddings").schema)
    chain.objects("a third run")
    assert unfinished_batches(chain.registry) == [chain.key]
    chain.finish()
    assert unfinished_batches(chain.registry) == []


def test_registering_again_changes_nothing(chain):
    chain.up_to("objects")
    before = standing(chain)
    again = chain.objects("another run")
    assert set(again.table["outcome"].to_pylist()) == {"matched"}
    assert standing(chain) == before
    assert outbox_counts(chain.registry)["pending"] == 4


def test_the_objects_that_are_told_of_a_batch_are_those_that_stand(chain):
    assert chain.up_to("objects").figures["objects"] == 4
    deleted, moved, *_ = standing(chain)
    delete_objects(chain.registry, [deleted], "ann")
    edit_object(chain.registry, moved, "ann", bbox=(1, 1, 5, 5))
    again = chain.objects("another run")
    assert Counter(again.table["outcome"].to_pylist())["suppressed"] == 1
    assert again.figures["objects"] == len(standing(chain))


def test_unknown_objects_stay_in_the_lake(chain):
    chain.up_to("embeddings")
    chain.project = chain.project.model_copy(
        update={"classification": chain.project.classification.model_copy(update={"threshold": 0.999})}
    )
    chain.classifications()
    result = chain.objects()
    assert (result.table.num_rows, result.figures["unknown"]) == (0, 4)
    assert standing(chain) == {}


def test_a_frame_whose_proposals_are_all_unknown_is_unsure_and_no_background(chain):
    chain.up_to("embeddings")
    chain.project = chain.project.model_copy(
        update={"classification": chain.project.classification.model_copy(update={"threshold": 0.999})}
    )
    chain.classifications()
    assert chain.objects().figures["frames_unsure"] == 2
    assert count_frames(chain.registry, "shapes")["unsure"] == 2
    chain.finish()
    assert unfinished_batches(chain.registry) == []


def test_what_is_left_of_a_frame_is_unsure_while_a_proposal_in_it_is_unknown(chain):
    chain.up_to("classifications")
    rows = chain.last("classifications").to_pylist()
    for row in rows:
        if row["label"] == "bar":
            row["label"] = UNKNOWN
    chain.tables["classifications"] = pa.Table.from_pylist(rows, schema=CLASSIFICATIONS)
    assert chain.objects().figures["frames_unsure"] == 0
    assert count_frames(chain.registry, "shapes")["objects"] == 2
    for object_id in standing(chain):
        delete_objects(chain.registry, [object_id], "ann")
    assert count_frames(chain.registry, "shapes")["unsure"] == 2


def lose_first_picture(chain, home) -> Callable[[], None]:
    """Make the first picture unreadable after ``sources`` has seen it; gives what brings it back."""
    path = home.path / "images" / "picture_0.png"
    content, times = path.read_bytes(), path.stat()
    chain.images.clear()
    path.unlink()

    def bring_back() -> None:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return bring_back


@pytest.mark.parametrize("stage", ["detections", "mask_table", "embeddings"])
def test_a_picture_that_cannot_be_read_for_a_moment_is_told_and_labelled_the_next_time(chain, home, stage):
    steps = ["sources", "frames", "detections", "mask_table", "embeddings", "classifications", "objects"]
    lost = steps.index(stage)
    for step in steps[:lost]:
        getattr(chain, step)()
    bring_back = lose_first_picture(chain, home)
    assert getattr(chain, stage)().figures["failed"] == 1
    for step in steps[lost + 1 :]:
        result = getattr(chain, step)()
    chain.finish()
    assert result.figures["unknown"] == 0
    assert (result.figures["frames_failed"], result.figures["failures"]) == (1, "1 has vanished")
    assert {row["error"] for row in list_frames(chain.registry, "shapes", "failed")} == {"has vanished"}
    verdict = frames_labelled(chain.registry, "shapes", chain.last("frames"))
    assert (verdict.passed, verdict.figures["wrong"], verdict.figures["reason"]) == (False, 1, "has vanished")
    assert (len(standing(chain)), unfinished_batches(chain.registry)) == (2, [chain.key])
    bring_back()
    assert chain.up_to("objects").figures["frames_failed"] == 0
    chain.finish()
    assert (len(standing(chain)), unfinished_batches(chain.registry)) == (4, [])
    assert count_frames(chain.registry, "shapes")["objects"] == 2
    assert frames_labelled(chain.registry, "shapes", chain.last("frames")).passed


def test_a_frame_that_fails_when_it_is_labelled_again_keeps_what_is_known_of_it(chain, home):
    chain.up_to("objects")
    before = standing(chain)
    lose_first_picture(chain, home)
    for stage in ("detections", "masks", "embeddings", "classifications"):
        chain.tables.pop(stage)
    for step in (chain.detections, chain.mask_table, chain.embeddings, chain.classifications, chain.objects):
        step()
    assert standing(chain) == before
    assert count_frames(chain.registry, "shapes")["objects"] == 2


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ("detections", "not detected yet"),
        ("embeddings", "lacks masks or vectors"),
        ("classifications", "not classified"),
    ],
)
def test_a_frame_that_a_stage_has_not_seen_is_not_labelled(chain, stage, reason):
    chain.up_to("classifications")
    chain.tables[stage] = chain.tables[stage].slice(chain.tables[stage].num_rows)
    result = chain.objects()
    chain.finish()
    assert (result.figures["frames_failed"], result.table.num_rows) == (2, 0)
    assert {reason in row["error"] for row in list_frames(chain.registry, "shapes", "failed")} == {True}
    assert unfinished_batches(chain.registry) == [chain.key]


def test_stages_pass_over_frames_whose_file_was_quarantined_since(chain, home):
    chain.up_to("classifications")
    path = home.path / "images" / "picture_0.png"
    path.write_bytes(b"no picture any more")
    chain.sources()
    chain.frames()
    for step in (chain.mask_table, chain.embeddings, chain.classifications, chain.objects):
        result = step()
    assert (result.figures["frames_failed"], result.table.num_rows) == (0, 2)


def test_to_a_frame_that_a_person_marked_as_background_nothing_is_added(chain):
    chain.up_to("frames")
    (first, _) = chain.last("frames")["frame_id"].to_pylist()
    mark_background(chain.registry, "shapes", [first], "ann")
    chain.up_to("objects")
    assert {row["frame_id"] for row in standing(chain).values()} == {chain.last("frames")["frame_id"].to_pylist()[1]}
    assert count_frames(chain.registry, "shapes")["background"] == 1


def test_a_frame_whose_labels_were_left_out_as_background_waits_for_them_once_that_is_taken_back(chain):
    chain.up_to("frames")
    first = chain.last("frames")["frame_id"].to_pylist()[0]
    mark_background(chain.registry, "shapes", [first], "ann")
    chain.up_to("objects")
    chain.finish()
    assert (unfinished_batches(chain.registry), count_frames(chain.registry, "shapes")["background"]) == ([], 1)
    unmark_background(chain.registry, "shapes", [first])
    assert {row["frame_id"] for row in list_frames(chain.registry, "shapes", "waiting")} == {first}
    chain.up_to("objects")
    assert count_frames(chain.registry, "shapes")["objects"] == 2


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
    result = chain.objects()
    assert (result.figures["superseded"], result.figures["frames_failed"]) == (0, 1)
    assert result.figures["failures"] == "1 has vanished"
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
    delete_objects(chain.registry, [third], "ann")
    before = {key: get_object(chain.registry, key) for key in (first, second, third)}
    for stage in ("detections", "masks", "embeddings", "classifications"):
        chain.tables.pop(stage)
    for step in (chain.detections, chain.mask_table, chain.embeddings, chain.classifications, chain.objects):
        step()
    assert {key: get_object(chain.registry, key) for key in (first, second, third)} == before
    assert third not in standing(chain)
