import pytest

from al_dagster.core.errors import UserError
from al_dagster.registry.batches import FileEntry, claim_files
from al_dagster.registry.frame_labels import (
    STATES,
    FrameOutcome,
    count_frames,
    list_frames,
    mark_background,
    record_frames,
    unmark_background,
)
from al_dagster.registry.labelling import register_batch
from al_dagster.registry.review import delete_objects
from al_dagster.registry.tables import BatchFile, Frame


@pytest.fixture
def frame_of(registry, parts, new_frame):
    """Registers another image that the project has a file of; its frame's id."""

    def add(project: str = parts) -> str:
        frame = new_frame()
        with registry.reader() as session:
            source = session.get_one(Frame, frame).source_id
        (key,) = claim_files(registry, project, [FileEntry(f"/{frame}.png", 1, 1)], 10)
        with registry.session() as session:
            session.query(BatchFile).filter_by(batch_key=key).update({"source_id": source, "status": "ready"})
        return frame

    return add


def state(registry, frame: str) -> str:
    (found,) = [row["state"] for row in list_frames(registry, "parts") if row["frame_id"] == frame]
    return found


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], "waiting"),
        ([FrameOutcome()], "background"),
        ([FrameOutcome(is_unsure=True)], "unsure"),
        ([FrameOutcome(error="has vanished")], "failed"),
        ([FrameOutcome(error="has vanished"), FrameOutcome()], "background"),
        ([FrameOutcome(), FrameOutcome(error="has vanished")], "background"),
        ([FrameOutcome(is_unsure=True), FrameOutcome()], "background"),
        ([FrameOutcome(is_unsure=True), FrameOutcome(error="has vanished")], "unsure"),
    ],
)
def test_a_frame_without_objects_is_background_only_if_it_was_labelled_and_shows_nothing(
    registry, frame_of, outcomes, expected
):
    frame = frame_of()
    for outcome in outcomes:
        record_frames(registry, "parts", "b", {frame: outcome})
    assert state(registry, frame) == expected
    assert count_frames(registry, "parts") == {name: int(name == expected) for name in STATES}


def test_the_reason_of_the_last_attempt_is_told_and_forgotten_once_it_succeeds(registry, frame_of):
    frame = frame_of()
    record_frames(registry, "parts", "b", {frame: FrameOutcome(error="has vanished")})
    assert [row["error"] for row in list_frames(registry, "parts")] == ["has vanished"]
    record_frames(registry, "parts", "b", {frame: FrameOutcome()})
    assert [row["error"] for row in list_frames(registry, "parts")] == [None]


def test_what_one_project_knows_of_a_frame_says_nothing_in_another(registry, frame_of):
    frame = frame_of()
    record_frames(registry, "other", "b", {frame: FrameOutcome()})
    assert state(registry, frame) == "waiting"
    assert list_frames(registry, "other") == []


def test_a_person_may_call_an_unsure_or_failed_frame_background_and_take_it_back(registry, frame_of):
    unsure, failed = frame_of(), frame_of()
    outcomes = {unsure: FrameOutcome(is_unsure=True), failed: FrameOutcome(error="has vanished")}
    record_frames(registry, "parts", "b", outcomes)
    mark_background(registry, "parts", [unsure, failed], "ann")
    assert {row["background_by"] for row in list_frames(registry, "parts", "background")} == {"ann"}
    record_frames(registry, "parts", "b", outcomes)
    assert (state(registry, unsure), state(registry, failed)) == ("background", "background")
    unmark_background(registry, "parts", [unsure, failed])
    assert (state(registry, unsure), state(registry, failed)) == ("unsure", "failed")


def test_a_frame_that_was_never_tried_can_be_called_background(registry, frame_of):
    frame = frame_of()
    mark_background(registry, "parts", [frame, frame], "ann")
    assert state(registry, frame) == "background"


def test_a_frame_with_objects_is_no_background_until_they_are_deleted(registry, frame_of, label):
    frame, empty = frame_of(), frame_of()
    one = label(frame, (1, 2, 30, 40))
    register_batch(registry, project_id="parts", batch_key="b", run_id="r", frame_ids=[frame], objects=[one])
    record_frames(registry, "parts", "b", {frame: FrameOutcome()})
    assert state(registry, frame) == "objects"
    with pytest.raises(UserError, match=f"frame {frame} has objects"):
        mark_background(registry, "parts", [empty, frame], "ann")
    assert list_frames(registry, "parts", "background") == []
    delete_objects(registry, [one.object_id], "ann")
    mark_background(registry, "parts", [frame], "ann")
    assert state(registry, frame) == "background"


def test_labelling_adds_nothing_to_a_frame_that_a_person_called_background(registry, frame_of, label):
    marked, other = frame_of(), frame_of()
    mark_background(registry, "parts", [marked], "ann")
    labels = [label(marked, (1, 2, 30, 40)), label(other, (1, 2, 30, 40))]
    batch = {"project_id": "parts", "batch_key": "b", "run_id": "r", "frame_ids": [marked, other]}
    done = register_batch(registry, objects=labels, **batch)
    assert (done.counts["inserted"], done.counts["suppressed"]) == (1, 1)
    assert [outcome[0] for outcome in done.outcomes] == [labels[1].object_id]
    assert state(registry, marked) == "background"
    unmark_background(registry, "parts", [marked])
    assert register_batch(registry, objects=labels, **batch).counts["inserted"] == 1


@pytest.mark.parametrize("change", [lambda *of: mark_background(*of, "ann"), unmark_background])
def test_only_a_frame_of_the_project_can_be_marked(registry, frame_of, change):
    frame = frame_of()
    with pytest.raises(UserError, match="is not one of project 'other'"):
        change(registry, "other", [frame])
    with pytest.raises(UserError, match="frm_none is not one of project 'parts'"):
        change(registry, "parts", [frame, "frm_none"])


def test_a_mark_needs_the_name_of_a_person(registry, frame_of):
    with pytest.raises(UserError, match="name of the person"):
        mark_background(registry, "parts", [frame_of()], " ")
