"""Registering batches: all or nothing, and never over the work of a person."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from al_dagster.registry.database import open_registry
from al_dagster.registry.labelling import register_batch
from al_dagster.registry.objects import count_objects, get_object, list_objects
from al_dagster.registry.review import AUTO, delete_objects, edit_object, list_conflicts, validate_objects
from al_dagster.registry.tables import Category, Conflict, EmbeddingOutbox, EmbeddingVersion, Object

BOX = (100.0, 100.0, 50.0, 50.0)
NEAR = (104.0, 100.0, 50.0, 50.0)
FAR = (300.0, 300.0, 50.0, 50.0)


def vector(number: int) -> np.ndarray:
    return np.eye(4, dtype=np.float32)[number]


@pytest.fixture
def register(registry, parts, frame):
    """Registers labels of the frame and returns the outcomes in order."""

    def run(*labels, run_id="run-1", frames=None):
        result = register_batch(
            registry,
            project_id=parts,
            batch_key="parts--1",
            run_id=run_id,
            frame_ids=frames or [frame],
            objects=labels,
        )
        return [outcome for _, _, outcome in result.outcomes]

    return run


@pytest.fixture
def outbox(registry):
    def read():
        with registry.reader() as session:
            return [
                (row.object_id, row.operation, row.status, row.embedding)
                for row in session.query(EmbeddingOutbox).order_by(EmbeddingOutbox.id)
            ]

    return read


def test_a_new_object_has_every_column_of_its_label(registry, register, label, frame):
    made = label(
        frame,
        BOX,
        polygon=[np.array([1, 2, 3, 4, 5, 6], dtype=np.float32)],
        mask_path="a1/b2/x.png",
        area=np.float32(12.5),
        mask_score=0.75,
        confidence=np.float32(0.5),
        segmentation_model="grabcut@1",
        classification_model="hog@1",
        classification_confidence=0.25,
        embedding=vector(0),
        embedding_version="tiny_v1",
    )
    assert register(made) == ["inserted"]
    stands = get_object(registry, made.object_id)
    expected = {
        "object_id": made.object_id,
        "detection_id": made.object_id,
        "frame_id": frame,
        "source_id": made.source_id,
        "project_id": "parts",
        "category": "nut",
        "polygon": [[1, 2, 3, 4, 5, 6]],
        "mask_path": "a1/b2/x.png",
        "area": 12.5,
        "mask_score": 0.75,
        "confidence": 0.5,
        "detection_model": "m@1",
        "segmentation_model": "grabcut@1",
        "classification_model": "hog@1",
        "classification_confidence": 0.25,
        "embedding_version": "tiny_v1",
        "state": "active",
        "is_validated": False,
        "batch_key": "parts--1",
        "run_id": "run-1",
    }
    assert {name: stands[name] for name in expected} == expected
    assert tuple(stands[f"bbox_{side}"] for side in "xywh") == BOX


def test_its_vector_is_queued_as_float32_bytes(register, label, frame, outbox):
    made = label(frame, BOX, embedding=vector(2), embedding_version="tiny_v1")
    register(made)
    assert outbox() == [(made.object_id, "upsert", "pending", vector(2).tobytes())]


def test_categories_are_made_in_the_order_of_the_projects_classes(registry, register, label, frame):
    register(label(frame, BOX, "washer"), label(frame, FAR, "gear"))
    with registry.reader() as session:
        names = [category.name for category in session.query(Category).order_by(Category.category_id)]
    assert names == ["nut", "bolt", "washer", "gear"]


def test_an_empty_batch_registers_nothing(registry, register):
    assert register() == []
    assert count_objects(registry, state=None) == 0


def test_the_counts_say_what_happened(registry, parts, label, frame):
    batch = {"project_id": parts, "batch_key": "parts--1", "run_id": "r", "frame_ids": [frame]}
    made = label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1")
    first = register_batch(registry, objects=[made], **batch)
    assert (first.counts["inserted"], first.counts["queued"], first.counts["superseded"]) == (1, 1, 0)
    second = register_batch(registry, objects=[], **batch)
    assert (second.counts["inserted"], second.counts["queued"], second.counts["superseded"]) == (0, 1, 1)


def test_the_same_labels_again_write_nothing(register, label, frame, contents, registry):
    labels = [
        label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1", polygon=[[0.1, 0.2, 0.3]], area=0.1),
        label(frame, FAR, "bolt"),
    ]
    register(*labels)
    before = contents()
    writes = []
    event.listen(
        registry.engine, "before_cursor_execute", lambda c, cursor, statement, *_: writes.append(statement.split()[0])
    )
    assert register(*labels, run_id="run-2") == ["matched", "matched"]
    assert contents() == before
    assert "SELECT" in writes
    assert not {"INSERT", "UPDATE", "DELETE"} & set(writes)


def test_a_changed_machine_field_is_updated_with_the_run_that_changed_it(registry, register, label, frame, outbox):
    register(label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1"))
    changed = label(frame, BOX, "bolt", confidence=0.9, embedding=vector(0), embedding_version="tiny_v1")
    assert register(changed, run_id="run-2") == ["matched"]
    stands = get_object(registry, changed.object_id)
    assert (stands["category"], stands["confidence"], stands["run_id"]) == ("bolt", 0.9, "run-2")
    assert len(outbox()) == 1


def test_a_match_keeps_the_objects_id_and_takes_the_new_box(registry, register, label, frame):
    old, new = label(frame, BOX), label(frame, NEAR, model="m@2")
    register(old)
    assert register(new) == ["matched"]
    (stands,) = list_objects(registry, state=None)
    assert (stands["object_id"], stands["detection_id"]) == (old.object_id, new.object_id)
    assert (stands["bbox_x"], stands["detection_model"]) == (NEAR[0], "m@2")
    assert register(new) == ["matched"]


def test_a_changed_vector_is_queued_once(register, label, frame, outbox):
    for number in (0, 1, 1):
        register(label(frame, BOX, embedding=vector(number), embedding_version="tiny_v1"))
    assert [blob for *_, blob in outbox()] == [vector(0).tobytes(), vector(1).tobytes()]


def test_a_vector_that_the_store_refused_is_queued_again(registry, register, label, frame, outbox):
    made = label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1")
    register(made)
    with registry.session() as session:
        session.query(EmbeddingOutbox).update({"status": "failed"})
    register(made)
    assert [status for _, _, status, _ in outbox()] == ["failed", "pending"]


def test_the_vector_that_the_store_holds_is_queued_again_after_another_was_refused(
    registry, register, label, frame, outbox
):
    def sync(status):
        with registry.session() as session:
            session.query(EmbeddingOutbox).filter_by(status="pending").update({"status": status})

    for number, status in ((0, "synced"), (1, "failed"), (0, "synced")):
        register(label(frame, BOX, embedding=vector(number), embedding_version="tiny_v1"))
        sync(status)
    assert [blob for *_, blob in outbox()] == [vector(0).tobytes(), vector(1).tobytes(), vector(0).tobytes()]


def test_an_object_whose_vector_was_refused_is_deleted_from_the_store_when_superseded(
    registry, register, label, frame, outbox
):
    register(label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1"))
    with registry.session() as session:
        session.query(EmbeddingOutbox).update({"status": "failed"})
    register()
    assert [(operation, status) for _, operation, status, _ in outbox()][-1] == ("delete", "pending")


def test_a_label_without_a_vector_takes_the_old_one_out(register, label, frame, outbox):
    register(label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1"))
    register(label(frame, BOX))
    register(label(frame, BOX))
    assert [operation for _, operation, _, _ in outbox()] == ["upsert", "delete"]


def test_an_object_that_the_new_labels_no_longer_contain_is_superseded_not_deleted(
    registry, register, label, frame, outbox
):
    made = label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1")
    register(made)
    assert register(label(frame, FAR)) == ["inserted"]
    assert get_object(registry, made.object_id)["state"] == "superseded"
    assert [operation for _, operation, _, _ in outbox()] == ["upsert", "delete"]


def test_a_superseded_object_that_is_found_again_is_revived(registry, register, label, frame, outbox):
    made = label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1")
    for labels in ((made,), (), (made,)):
        outcomes = register(*labels)
    assert outcomes == ["inserted"]
    assert get_object(registry, made.object_id)["state"] == "active"
    assert [operation for _, operation, _, _ in outbox()] == ["upsert", "delete", "upsert"]


def test_frames_that_were_not_labelled_are_left_alone(registry, register, label, frame, new_frame):
    other = new_frame()
    stands = label(other, BOX)
    register(stands, frames=[other])
    register(label(frame, BOX))
    assert get_object(registry, stands.object_id)["state"] == "active"


def test_other_projects_are_left_alone(registry, register, label, frame):
    theirs = label(frame, BOX, object_id="obj_theirs")
    batch = {"batch_key": "people--1", "run_id": "r", "frame_ids": [frame]}
    register_batch(registry, project_id="people", objects=[theirs], **batch)
    assert register(label(frame, BOX)) == ["inserted"]
    assert get_object(registry, "obj_theirs")["state"] == "active"


def person_validates(registry, name):
    validate_objects(registry, [name], "Ada")


def person_renames(registry, name):
    edit_object(registry, name, "Ada", category="washer")


def person_moves(registry, name):
    edit_object(registry, name, "Ada", bbox=(200, 200, 60, 60))


def person_flags(registry, name):
    edit_object(registry, name, "Ada", is_difficult=True)


def person_deletes(registry, name):
    delete_objects(registry, [name], "Ada")


TOUCHES = [person_validates, person_renames, person_moves, person_flags, person_deletes]


@pytest.mark.parametrize("touch", TOUCHES)
@pytest.mark.parametrize("case", ["same box", "changed label", "another model's box", "another class", "nothing found"])
def test_what_a_person_touched_stays_as_the_person_left_it(registry, register, label, frame, touch, case, outbox):
    made = label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1")
    register(made)
    touch(registry, made.object_id)
    before, queued = get_object(registry, made.object_id), outbox()
    new = {
        "same box": [made],
        "changed label": [
            label(frame, BOX, "bolt", confidence=0.1, embedding=vector(1), embedding_version="tiny_v1", area=3.0)
        ],
        "another model's box": [label(frame, NEAR, model="m@2", embedding=vector(1), embedding_version="tiny_v1")],
        "another class": [label(frame, NEAR, "bolt", model="m@2")],
        "nothing found": [],
    }
    register(*new[case], run_id="run-2")
    assert get_object(registry, made.object_id) == before
    assert [row for row in outbox() if row[0] == made.object_id] == queued


@pytest.mark.parametrize("touch", [person_validates, person_renames, person_moves, person_flags])
def test_the_machine_label_that_a_person_corrected_is_not_added_beside_it(registry, register, label, frame, touch):
    made = label(frame, BOX)
    register(made)
    touch(registry, made.object_id)
    assert register(made) == ["kept"]
    assert count_objects(registry, state=None) == 1


def test_a_new_box_on_a_validated_object_is_not_added_beside_it(registry, register, label, frame):
    made = label(frame, BOX)
    register(made)
    validate_objects(registry, [made.object_id], "Ada")
    assert register(label(frame, NEAR, model="m@2")) == ["kept"]
    assert count_objects(registry, state=None) == 1


def test_a_box_where_a_person_moved_an_object_to_is_not_added_beside_it(registry, register, label, frame):
    made = label(frame, BOX)
    register(made)
    edit_object(registry, made.object_id, "Ada", bbox=FAR)
    assert register(made, label(frame, FAR, model="m@2")) == ["kept", "kept"]
    assert count_objects(registry) == 1


@pytest.mark.parametrize("category", ["nut", "bolt"])
def test_a_superseded_object_is_not_revived_over_a_persons_object(registry, register, label, frame, category):
    past, other = label(frame, FAR), label(frame, BOX)
    register(past, other)
    register(other)
    edit_object(registry, other.object_id, "Ada", bbox=FAR, category=category)
    assert register(other, past) == ["kept", "kept" if category == "nut" else "conflict"]
    assert get_object(registry, past.object_id)["state"] == "superseded"


def test_what_a_person_deleted_does_not_come_back(registry, register, label, frame, outbox):
    made = label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1")
    register(made)
    delete_objects(registry, [made.object_id], "Ada")
    assert register(made) == ["suppressed"]
    assert register(label(frame, NEAR, model="m@2", embedding=vector(1), embedding_version="tiny_v1")) == ["suppressed"]
    assert count_objects(registry) == 0
    assert [operation for _, operation, _, _ in outbox()] == ["upsert", "delete"]


def test_another_class_where_a_person_deleted_something_is_a_new_object(registry, register, label, frame):
    made = label(frame, BOX)
    register(made)
    delete_objects(registry, [made.object_id], "Ada")
    assert register(label(frame, NEAR, "bolt", model="m@2")) == ["inserted"]


def test_a_box_that_contradicts_a_persons_object_is_a_conflict_recorded_once(registry, register, label, frame):
    made = label(frame, BOX)
    register(made)
    validate_objects(registry, [made.object_id], "Ada")
    against = label(frame, NEAR, "bolt", model="m@2", confidence=0.6)
    assert register(against) == register(against) == ["conflict"]
    (conflict,) = list_conflicts(registry)
    assert (conflict["object_id"], conflict["detection_id"]) == (made.object_id, against.object_id)
    assert (conflict["category"], conflict["confidence"], conflict["bbox_x"]) == ("bolt", 0.6, NEAR[0])
    assert conflict["iou"] == pytest.approx(46 / 54)
    assert count_objects(registry, state=None) == 1


def test_a_resolved_conflict_is_not_opened_again(registry, register, label, frame):
    made = label(frame, BOX)
    register(made)
    validate_objects(registry, [made.object_id], "Ada")
    against = label(frame, NEAR, "bolt", model="m@2")
    register(against)
    validate_objects(registry, [made.object_id], "Ben")
    assert register(against) == ["conflict"]
    assert list_conflicts(registry) == []
    with registry.reader() as session:
        assert session.query(Conflict).count() == 1


@pytest.mark.parametrize("touch", [person_validates, person_flags, "accepted"])
def test_another_class_for_a_touched_object_is_a_conflict_though_the_box_did_not_move(
    registry, register, label, frame, touch
):
    made = label(frame, BOX)
    register(made)
    if touch == "accepted":
        with registry.session() as session:
            session.get_one(Object, made.object_id).is_validated = True
            session.get_one(Object, made.object_id).validated_by = AUTO
    else:
        touch(registry, made.object_id)
    before = get_object(registry, made.object_id)
    assert register(label(frame, BOX, "bolt", confidence=0.9)) == ["conflict"]
    assert get_object(registry, made.object_id) == before
    (conflict,) = list_conflicts(registry)
    assert (conflict["object_id"], conflict["category"], conflict["object_category"]) == (made.object_id, "bolt", "nut")
    assert conflict["iou"] == pytest.approx(1)


def test_what_a_person_corrected_is_news_only_when_the_machine_says_a_third_thing(registry, register, label, frame):
    register(label(frame, BOX))
    person_renames(registry, label(frame, BOX).object_id)
    assert register(label(frame, BOX)) == ["kept"]
    assert register(label(frame, NEAR, model="m@2")) == ["kept"]
    assert register(label(frame, BOX, "washer")) == ["kept"]
    assert list_conflicts(registry) == []
    assert register(label(frame, BOX, "bolt")) == ["conflict"]
    assert [conflict["category"] for conflict in list_conflicts(registry)] == ["bolt"]


def test_what_the_machine_had_said_is_not_taken_for_known_where_it_was_not_kept(registry, register, label, frame):
    made = label(frame, BOX)
    register(made)
    person_renames(registry, made.object_id)
    with registry.session() as session:
        session.get_one(Object, made.object_id).machine_label = None
    assert register(label(frame, BOX, "washer")) == ["kept"]
    assert register(made) == ["conflict"]


def test_what_a_person_corrected_and_then_deleted_does_not_come_back(registry, register, label, frame):
    made = label(frame, BOX)
    register(made)
    person_renames(registry, made.object_id)
    delete_objects(registry, [made.object_id], "Ada")
    for new in (made, label(frame, NEAR, model="m@2"), label(frame, NEAR, "washer", model="m@2")):
        assert register(new) == ["suppressed"]
    assert register(label(frame, NEAR, "bolt", model="m@2")) == ["inserted"]


def test_each_class_that_contradicts_a_person_at_one_place_is_a_conflict_of_its_own(registry, register, label, frame):
    made = label(frame, BOX)
    register(made)
    person_validates(registry, made.object_id)
    for category in ("bolt", "washer", "bolt"):
        register(label(frame, BOX, category))
        assert [conflict["category"] for conflict in list_conflicts(registry)] == [category]


def test_a_conflict_that_the_machine_no_longer_raises_is_withdrawn_and_told_again_if_it_comes_back(
    registry, register, label, frame, new_frame
):
    made, elsewhere = label(frame, BOX), new_frame()
    register(made)
    person_validates(registry, made.object_id)
    against = label(frame, BOX, "bolt")
    register(against)
    register(label(elsewhere, BOX), frames=[elsewhere])
    assert len(list_conflicts(registry)) == 1
    assert register(made) == ["kept"]
    assert list_conflicts(registry) == []
    assert register(against) == ["conflict"]
    assert len(list_conflicts(registry)) == 1
    register()
    assert list_conflicts(registry) == []


def test_a_conflict_that_a_person_decided_is_kept_when_the_machine_agrees(registry, register, label, frame):
    made = label(frame, BOX)
    register(made)
    person_validates(registry, made.object_id)
    register(label(frame, BOX, "bolt"))
    person_validates(registry, made.object_id)
    register(made)
    assert register(label(frame, BOX, "bolt")) == ["conflict"]
    assert list_conflicts(registry) == []
    with registry.reader() as session:
        assert session.query(Conflict).one().resolved_at is not None


def test_the_vector_of_an_older_version_leaves_its_store_when_the_new_one_enters(registry, register, label, frame):
    with registry.session() as session:
        session.add(EmbeddingVersion(version_id="tiny_v2", model_name="tiny", model_type="test", dimension=4))
    labels = [label(frame, box, embedding=vector(0), embedding_version="tiny_v1") for box in (BOX, FAR)]
    register(*labels)
    person_validates(registry, labels[1].object_id)
    newer = [replace(one, embedding=vector(1), embedding_version="tiny_v2") for one in labels]
    register(*newer)
    register(*newer)
    with registry.reader() as session:
        rows = session.query(EmbeddingOutbox).order_by(EmbeddingOutbox.id)
        queued = [(row.object_id, row.version_id, row.operation) for row in rows]
    moved, kept = (one.object_id for one in labels)
    assert queued[2:] == [(moved, "tiny_v2", "upsert"), (moved, "tiny_v1", "delete")]
    assert get_object(registry, kept)["embedding_version"] == "tiny_v1"


@pytest.mark.parametrize("side", [0.0, 0.999, -3.0, float("nan"), float("inf")])
@pytest.mark.parametrize("place", [2, 3])
def test_a_label_with_a_box_that_holds_no_pixel_is_refused(register, label, frame, contents, side, place):
    before = contents()
    box = list(BOX)
    box[place] = side
    with pytest.raises(ValueError, match="its sides must be at least 1 px"):
        register(replace(label(frame, BOX), bbox=tuple(box)))
    assert contents() == before


@pytest.mark.parametrize("wrong", ["repeated id", "strange frame", "unknown version", "wrong dimension"])
def test_labels_that_cannot_be_registered_leave_nothing(register, label, frame, new_frame, contents, wrong):
    good = label(frame, BOX)
    bad = {
        "repeated id": lambda: label(frame, BOX, confidence=0.1),
        "strange frame": lambda: label(new_frame(), BOX),
        "unknown version": lambda: label(frame, FAR, embedding=vector(0), embedding_version="other"),
        "wrong dimension": lambda: label(frame, FAR, embedding=np.ones(5, np.float32), embedding_version="tiny_v1"),
    }[wrong]()
    before = contents()
    with pytest.raises(ValueError, match=r"two labels|not one of frame_ids|not registered|must have shape"):
        register(good, bad)
    assert contents() == before


@pytest.mark.parametrize("statement", ["INSERT INTO objects", "UPDATE objects", "INSERT INTO embedding_outbox"])
def test_an_exception_in_the_middle_leaves_nothing_and_running_again_completes(
    registry, register, label, frame, contents, statement
):
    old = [label(frame, BOX, embedding=vector(0), embedding_version="tiny_v1"), label(frame, FAR)]
    register(*old)
    new = [
        label(frame, NEAR, model="m@2", embedding=vector(1), embedding_version="tiny_v1"),
        label(frame, (0, 0, 9, 9), embedding=vector(2), embedding_version="tiny_v1"),
    ]
    before = contents()

    def fail(connection, cursor, executed, *_):
        if executed.startswith(statement):
            raise RuntimeError("power cut")

    event.listen(registry.engine, "after_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        register(*new)
    event.remove(registry.engine, "after_cursor_execute", fail)
    assert contents() == before
    assert register(*new) == ["matched", "inserted"]
    assert get_object(registry, old[1].object_id)["state"] == "superseded"


def test_a_confidence_outside_its_range_fails_the_whole_batch(registry, register, label, frame):
    with pytest.raises(IntegrityError):
        register(label(frame, BOX), label(frame, FAR, confidence=1.5))
    assert count_objects(registry, state=None) == 0


def register_and_hang(url, batch, reached):
    registry = open_registry(url)

    def hang(connection, cursor, executed, *_):
        if executed.startswith("INSERT INTO embedding_outbox"):
            reached.set()
            time.sleep(60)

    event.listen(registry.engine, "after_cursor_execute", hang)
    register_batch(registry, **batch)


def test_a_process_killed_in_the_middle_of_a_batch_leaves_none_of_it(
    registry, registry_url, register, label, frame, contents
):
    labels = [
        label(frame, (x * 60.0, 0, 50, 50), embedding=vector(x % 4), embedding_version="tiny_v1") for x in range(10)
    ]
    batch = {"project_id": "parts", "batch_key": "parts--1", "run_id": "r", "frame_ids": [frame], "objects": labels}
    before = contents()
    context = multiprocessing.get_context("spawn")
    reached = context.Event()
    process = context.Process(target=register_and_hang, args=(registry_url, batch, reached))
    process.start()
    assert reached.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert contents() == before
    assert register(*labels) == ["inserted"] * 10
    with registry.reader() as session:
        assert (session.query(Object).count(), session.query(EmbeddingOutbox).count()) == (10, 10)
