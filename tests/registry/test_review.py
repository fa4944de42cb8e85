"""What people do to objects."""

import numpy as np
import pytest

from al_dagster.core.errors import UserError
from al_dagster.registry.objects import count_objects, get_object, list_objects
from al_dagster.registry.review import delete_objects, edit_object, list_conflicts, validate_objects
from al_dagster.registry.tables import EmbeddingOutbox, Frame

BOX = (100.0, 100.0, 50.0, 50.0)
RING = [[100.0, 100.0, 150.0, 100.0, 150.0, 150.0]]


@pytest.fixture
def found(register, label, frame):
    vector = np.array([1, 0, 0, 0], dtype=np.float32)
    mask = {"polygon": RING, "mask_path": "a1/b2/a.png", "mask_rle": "x", "area": 900.0, "mask_score": 0.9}
    made = label(frame, BOX, embedding=vector, embedding_version="tiny_v1", **mask)
    register(made)
    return made.object_id


def test_validating_records_who_and_when(registry, found):
    validate_objects(registry, [found], "Ada")
    stands = get_object(registry, found)
    assert (stands["is_validated"], stands["validated_by"]) == (True, "Ada")
    assert stands["validated_at"] is not None
    assert stands["edited_by"] is None


VALIDATION = {"is_validated", "validated_by", "validated_at"}
EDIT = {"edited_by", "edited_at", "machine_label", "updated_at"}
MASK = {"polygon", "mask_path", "mask_rle", "area", "mask_score"}


def changes(registry, found, **change) -> set[str]:
    """The columns that an edit changes."""
    before = get_object(registry, found)
    edit_object(registry, found, "Ada", **change)
    after = get_object(registry, found)
    return {name for name in before if before[name] != after[name]}


def test_editing_changes_only_what_is_given_and_records_who_and_when(registry, found):
    changed = changes(registry, found, category="bolt", is_occluded=True)
    assert changed - {"updated_at"} == {"category", "category_id", "is_occluded", *VALIDATION, *EDIT} - {"updated_at"}
    after = get_object(registry, found)
    assert (after["category"], after["is_occluded"], after["edited_by"]) == ("bolt", True, "Ada")
    assert after["edited_at"] is not None


@pytest.mark.parametrize("change", [{"category": "bolt"}, {"bbox": (90, 95, 70, 60)}, {"category": "nut"}])
def test_saying_which_category_or_box_is_right_is_a_validation(registry, found, change):
    edit_object(registry, found, "Ada", **change)
    stands = get_object(registry, found)
    assert (stands["is_validated"], stands["validated_by"], stands["validation_rule"]) == (True, "Ada", None)
    assert stands["validated_at"] == stands["edited_at"]
    assert list_objects(registry, is_validated=True) == [stands]


def test_flags_alone_are_no_validation(registry, found):
    assert changes(registry, found, is_difficult=True) <= {"is_difficult", *EDIT}
    assert get_object(registry, found)["is_validated"] is False


@pytest.mark.parametrize("box", [(90, 95, 70, 60), (300, 95, 70, 60), (100, 100, 50, 50.5)])
def test_a_new_box_takes_mask_and_vector_off_the_object_until_they_are_made_anew(registry, found, box):
    changed = changes(registry, found, bbox=box)
    assert changed >= {*MASK, "is_stale"}
    stands = get_object(registry, found)
    assert {stands[name] for name in MASK} == {None}
    assert stands["is_stale"] is True
    assert [stands[f"bbox_{side}"] for side in "xywh"] == list(box)
    with registry.reader() as session:
        rows = session.query(EmbeddingOutbox).order_by(EmbeddingOutbox.id).all()
        assert [(row.operation, row.status) for row in rows] == [("upsert", "pending"), ("delete", "pending")]


@pytest.mark.parametrize("change", [{"bbox": BOX}, {"category": "bolt"}, {"is_truncated": True}])
def test_mask_and_vector_stay_where_the_box_stays(registry, found, change):
    assert not changes(registry, found, **change) & {*MASK, "is_stale", "bbox_x", "bbox_y", "bbox_w", "bbox_h"}
    with registry.reader() as session:
        assert session.query(EmbeddingOutbox).count() == 1


def test_an_edit_that_leaves_the_box_of_a_stale_object_leaves_it_stale(registry, found):
    edit_object(registry, found, "Ada", bbox=(90, 95, 70, 60))
    edit_object(registry, found, "Ada", bbox=(90, 95, 70, 60), category="bolt")
    assert get_object(registry, found)["is_stale"] is True


def test_a_box_is_held_by_its_frame_where_that_has_a_size_of_its_own(registry, found, frame):
    with registry.session() as session:
        stands = session.get_one(Frame, frame)
        stands.width, stands.height = 200, 800
    with pytest.raises(UserError, match="does not lie inside its 200×800 image"):
        edit_object(registry, found, "Ada", bbox=(150, 100, 60, 50))
    edit_object(registry, found, "Ada", bbox=(100, 700, 60, 50))


def test_a_deleted_object_keeps_its_row_and_leaves_the_vector_store(registry, found):
    delete_objects(registry, [found], "Ada")
    stands = get_object(registry, found)
    assert (stands["state"], stands["edited_by"]) == ("deleted", "Ada")
    with registry.reader() as session:
        rows = session.query(EmbeddingOutbox).order_by(EmbeddingOutbox.id).all()
        assert [(row.operation, row.status) for row in rows] == [("upsert", "pending"), ("delete", "pending")]


def test_an_object_without_a_vector_is_deleted_without_an_outbox_row(registry, register, label, frame):
    plain = label(frame, BOX)
    register(plain)
    delete_objects(registry, [plain.object_id], "Ada")
    with registry.reader() as session:
        assert session.query(EmbeddingOutbox).count() == 0


def test_a_class_of_the_project_that_is_no_category_yet_becomes_one(registry, found):
    edit_object(registry, found, "Ada", category="washer")
    assert get_object(registry, found)["category"] == "washer"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"category": "screw"}, "no category 'screw'; the classes of project parts are: nut, bolt, washer"),
        ({"bbox": (600, 0, 41, 10)}, "does not lie inside its 640×480 image"),
        ({"bbox": (0, 440, 10, 41)}, "does not lie inside its 640×480 image"),
        ({"bbox": (-1, 0, 10, 10)}, "does not lie inside"),
        ({"bbox": (0, 0, 0, 10)}, "is less than 1 pixel wide or high"),
        ({"bbox": (20, 20, 0.00009, 30)}, "is less than 1 pixel wide or high"),
        ({"bbox": (20, 20, 30, 0.999)}, "is less than 1 pixel wide or high"),
        ({"bbox": (20, 20, -5, 30)}, "is less than 1 pixel wide or high"),
        ({"bbox": (0, 0, float("nan"), 10)}, "is not four finite numbers"),
        ({"bbox": (float("nan"), 0, 10, 10)}, "is not four finite numbers"),
        ({"bbox": (0, 0, float("inf"), 10)}, "is not four finite numbers"),
        ({"bbox": (float("-inf"), 0, 10, 10)}, "is not four finite numbers"),
        ({}, "give what to change"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_and_changes_nothing(registry, found, contents, change, sentence):
    before = contents()
    with pytest.raises(UserError, match=sentence):
        edit_object(registry, found, "Ada", **change)
    assert contents() == before


CHANGES = [
    lambda registry, name, by: validate_objects(registry, [name], by),
    lambda registry, name, by: edit_object(registry, name, by, is_difficult=True),
    lambda registry, name, by: delete_objects(registry, [name], by),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_there_or_not_active_cannot_be_reviewed(registry, found, change, register):
    with pytest.raises(UserError, match="there is no object 'obj_x'"):
        change(registry, "obj_x", "Ada")
    register()
    with pytest.raises(UserError, match="is superseded"):
        change(registry, found, "Ada")


@pytest.mark.parametrize("change", CHANGES[:2])
def test_a_deleted_object_cannot_be_reviewed(registry, found, change):
    delete_objects(registry, [found], "Ada")
    with pytest.raises(UserError, match="is deleted"):
        change(registry, found, "Ben")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_needs_a_person(registry, found, change, contents):
    before = contents()
    with pytest.raises(UserError, match="name of the person"):
        change(registry, found, " ")
    assert contents() == before


def test_several_objects_are_validated_together_or_not_at_all(registry, found):
    with pytest.raises(UserError, match="there is no object"):
        validate_objects(registry, [found, "obj_x"], "Ada")
    assert get_object(registry, found)["is_validated"] is False


@pytest.mark.parametrize("last", ["not_there", "superseded"])
def test_several_objects_are_deleted_together_or_not_at_all(registry, register, label, frame, contents, last):
    gone, stays = label(frame, BOX), label(frame, (300.0, 300.0, 50.0, 50.0))
    register(gone, stays)
    register(stays)
    before = contents()
    with pytest.raises(UserError, match=r"there is no object 'obj_x'|is superseded; .*nothing was changed"):
        delete_objects(registry, [stays.object_id, "obj_x" if last == "not_there" else gone.object_id], "Ada")
    assert contents() == before


def test_what_is_deleted_already_stays_as_it_was_when_it_is_deleted_with_others(registry, register, label, frame):
    labels = [label(frame, (x * 60.0, 0, 50, 50)) for x in range(3)]
    register(*labels)
    first, second, third = (made.object_id for made in labels)
    assert delete_objects(registry, [second], "Ada") == [second]
    stands = get_object(registry, second)
    assert delete_objects(registry, [third, second, first, third], "Ben") == [third, first]
    assert get_object(registry, second) == stands
    assert [get_object(registry, name)["edited_by"] for name in (first, third)] == ["Ben", "Ben"]
    assert delete_objects(registry, [first, second, third], "Ben") == []


@pytest.mark.parametrize("change", CHANGES)
def test_reviewing_an_object_resolves_its_conflicts(registry, found, register, label, frame, change):
    validate_objects(registry, [found], "Ada")
    register(label(frame, BOX, "bolt", model="m@2"))
    (conflict,) = list_conflicts(registry, "parts")
    assert (conflict["object_id"], conflict["category"], conflict["object_category"]) == (found, "bolt", "nut")
    assert [conflict[f"object_bbox_{side}"] for side in "xywh"] == list(BOX)
    assert list_conflicts(registry, "people") == []
    change(registry, found, "Ada")
    assert list_conflicts(registry) == []


def test_objects_are_listed_by_every_condition(registry, register, label, frame):
    nuts = [label(frame, (x * 60.0, 0, 50, 50), confidence=x / 10) for x in range(5)]
    bolt = label(frame, (0, 200, 50, 50), "bolt")
    register(*nuts, bolt)
    validate_objects(registry, [bolt.object_id], "Ada")
    delete_objects(registry, [nuts[0].object_id], "Ada")

    def listed(**conditions):
        names = {found["object_id"] for found in list_objects(registry, **conditions)}
        assert count_objects(registry, **conditions) == len(names)
        return names

    active = {made.object_id for made in nuts[1:]}
    assert listed() == active | {bolt.object_id}
    assert listed(category="nut") == active
    assert listed(min_confidence=0.3) == {nuts[3].object_id, nuts[4].object_id, bolt.object_id}
    assert listed(is_validated=True) == {bolt.object_id}
    assert listed(is_validated=False, source_id=nuts[0].source_id) == active
    assert listed(state="deleted") == {nuts[0].object_id}
    assert len(listed(state=None)) == 6
    assert listed(project="people") == listed(source_id="src_x") == set()
    pages = [list_objects(registry, limit=2, offset=start)[0]["object_id"] for start in (0, 2, 4)]
    assert len(set(pages)) == 3


def test_an_unknown_object_is_a_clear_error(registry):
    with pytest.raises(UserError, match="there is no object 'obj_x'"):
        get_object(registry, "obj_x")
