"""Whatever is labelled again, in whatever order, human work stays and the same labels twice change nothing.

Every label that a person's object stands for agrees with it, repeats what was corrected, or is an open or decided
conflict; and every open conflict is one that the newest labels raise.
"""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from al_dagster.core.geometry import iou_matrix, xywh_to_xyxy
from al_dagster.registry.labelling import register_batch
from al_dagster.registry.matching import MIN_IOU
from al_dagster.registry.objects import get_object, list_objects
from al_dagster.registry.review import delete_objects, edit_object, list_conflicts, validate_objects
from al_dagster.registry.tables import Category, Conflict

places = st.sampled_from([0.0, 2.0, 5.0, 8.0, 14.0, 20.0])
sizes = st.sampled_from([10.0, 12.0, 16.0])
found = st.tuples(
    st.tuples(places, places, sizes, sizes),
    st.sampled_from(["nut", "bolt"]),
    st.sampled_from(["m@1", "m@2"]),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([0.4, 0.9]),
)
labelled = st.lists(found, max_size=6, unique_by=lambda item: (item[0], item[2]))
touches = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["validate", "rename", "move", "delete"]), places), max_size=3
)


def touch(registry, object_id, action, place):
    if action == "validate":
        validate_objects(registry, [object_id], "Ada")
    elif action == "rename":
        edit_object(registry, object_id, "Ada", category="washer")
    elif action == "move":
        edit_object(registry, object_id, "Ada", bbox=(place, place, 11.0, 11.0))
    else:
        delete_objects(registry, [object_id], "Ada")


def near(first, second):
    return iou_matrix(xywh_to_xyxy(np.array([first])), xywh_to_xyxy(np.array([second])))[0, 0] >= MIN_IOU


def names(registry):
    with registry.reader() as session:
        return {row.category_id: row.name for row in session.query(Category)}


def recorded(registry):
    with registry.reader() as session:
        return {(row.object_id, row.detection_id, row.category) for row in session.query(Conflict)}


def is_human(row):
    return row["is_validated"] or row["edited_at"] is not None


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.tuples(labelled, touches), min_size=1, max_size=4))
def test_relabelling_never_changes_human_work_and_again_is_a_no_op(registry, parts, new_frame, label, contents, rounds):
    frame = new_frame()
    source = label(frame, (0, 0, 1, 1)).source_id
    vectors = np.eye(4, dtype=np.float32)
    human = {}
    for number, (items, people) in enumerate(rounds):
        labels = [
            label(
                frame,
                box,
                category,
                model,
                confidence=confidence,
                embedding=None if seen is None else vectors[seen],
                embedding_version=None if seen is None else "tiny_v1",
            )
            for box, category, model, seen, confidence in items
        ]
        batch = {"project_id": parts, "batch_key": "parts--1", "frame_ids": [frame], "objects": labels}
        result = register_batch(registry, run_id=f"run-{number}", **batch)
        for object_id, left in human.items():
            assert get_object(registry, object_id) == left

        said = {made.object_id: made.category for made in labels}
        boxes = {made.object_id: made.bbox for made in labels}
        raised = set()
        for detection_id, object_id, outcome in result.outcomes:
            if object_id not in human or human[object_id]["state"] == "deleted":
                assert outcome != "kept"
                continue
            left = human[object_id]
            machine = left["machine_label"] or {"category_id": left["category_id"], "bbox": boxes[detection_id]}
            again = said[detection_id] == names(registry)[machine["category_id"]]
            agrees = said[detection_id] == left["category"] or (again and near(boxes[detection_id], machine["bbox"]))
            assert outcome == ("kept" if agrees else "conflict")
            if not agrees:
                raised.add((object_id, detection_id, said[detection_id]))
        assert raised <= recorded(registry)
        told = {(row["object_id"], row["detection_id"], row["category"]) for row in list_conflicts(registry)}
        assert {key for key in told if key[0] in human and get_object(registry, key[0])["frame_id"] == frame} <= raised

        before = contents()
        again = register_batch(registry, run_id="again", **batch)
        assert contents() == before
        assert again.outcomes == [
            (label_id, object_id, "matched" if outcome == "inserted" else outcome)
            for label_id, object_id, outcome in result.outcomes
        ]
        assert [name for name, _, _ in result.outcomes] == [made.object_id for made in labels]

        rows = list_objects(registry, source_id=source)
        stands = {name for _, name, outcome in result.outcomes if outcome in ("inserted", "matched")}
        assert {row["object_id"] for row in rows if not is_human(row)} == stands

        for index, action, place in people:
            active = list_objects(registry, source_id=source)
            if active:
                touch(registry, active[index % len(active)]["object_id"], action, place)
        everything = list_objects(registry, source_id=source, state=None)
        human = {row["object_id"]: row for row in everything if is_human(row)}
