"""What counts as a review, and whether the machine was right."""

import pytest
from sqlalchemy import text

from al_dagster.core.calibrator import Calibrator
from al_dagster.registry.acceptance import AcceptanceRule, accept, undo_acceptance
from al_dagster.registry.calibrations import NewCalibration, calibration_id, replace_calibrations
from al_dagster.registry.objects import get_object
from al_dagster.registry.review import delete_objects, edit_object, validate_objects
from al_dagster.registry.reviews import list_reviews
from al_dagster.registry.tables import SourceGroup

BOX = (100.0, 100.0, 50.0, 50.0)


@pytest.fixture
def found(register, label, frame):
    made = label(frame, BOX, confidence=0.7)
    register(made)
    return made.object_id


@pytest.fixture
def accepted(registry, found):
    """The object, validated by a rule."""
    fitted = NewCalibration(Calibrator("constant", {"value": 0.9}), 50, 45, 0.1, 0.0, "hash")
    replace_calibrations(registry, "parts", {"m@1": fitted})
    rule = AcceptanceRule("parts", "m@1", calibration_id("parts", "m@1", "hash"), 0.5, None, "a rule")
    assert [row["object_id"] for row in accept(registry, rule)] == [found]
    return found


def outcome(registry) -> bool | None:
    reviews = list_reviews(registry, "parts")
    assert len(reviews) <= 1
    return reviews[0].correct if reviews else None


def test_an_object_that_nobody_looked_at_is_no_review(registry, found):
    assert list_reviews(registry, "parts") == []


def test_a_review_says_what_the_machine_said(registry, found):
    validate_objects(registry, [found], "Ada")
    (review,) = list_reviews(registry, "parts")
    assert (review.object_id, review.detection_model, review.category) == (found, "m@1", "nut")
    assert (review.confidence, review.correct) == (0.7, True)
    assert review.group_key == get_object(registry, found)["source_id"]
    assert list_reviews(registry, "people") == []


def test_a_review_is_of_the_group_that_its_source_has_in_the_project(registry, found):
    validate_objects(registry, [found], "Ada")
    source = get_object(registry, found)["source_id"]
    groups = {"parts": "recording:src_first", "people": "folder:/in"}
    with registry.session() as session:
        session.add_all(
            SourceGroup(project_id=project, source_id=source, group_key=key, rule="x")
            for project, key in groups.items()
        )
    assert [review.group_key for review in list_reviews(registry, "parts")] == ["recording:src_first"]


def test_a_deleted_object_was_wrong_also_after_it_was_validated(registry, found):
    validate_objects(registry, [found], "Ada")
    delete_objects(registry, [found], "Ada")
    assert outcome(registry) is False


def test_another_category_was_wrong_and_the_review_names_the_machines(registry, found):
    edit_object(registry, found, "Ada", category="bolt")
    validate_objects(registry, [found], "Ada")
    (review,) = list_reviews(registry, "parts")
    assert (review.category, review.correct) == ("nut", False)


@pytest.mark.parametrize(("width", "right"), [(100, True), (101, False)])
def test_a_box_that_overlaps_the_machines_by_half_was_right(registry, found, width, right):
    edit_object(registry, found, "Ada", bbox=(100, 100, width, 50))
    validate_objects(registry, [found], "Ada")
    assert outcome(registry) is right


def test_many_small_moves_are_measured_from_where_the_machine_drew_the_box(registry, found):
    for step in range(1, 8):
        edit_object(registry, found, "Ada", bbox=(100 + 10 * step, 100, 50, 50))
    validate_objects(registry, [found], "Ada")
    assert outcome(registry) is False


def test_a_correction_that_is_taken_back_was_none(registry, found):
    edit_object(registry, found, "Ada", category="bolt")
    assert outcome(registry) is False
    edit_object(registry, found, "Ada", category="nut")
    assert outcome(registry) is True


def test_a_flag_alone_judges_nothing(registry, found):
    edit_object(registry, found, "Ada", is_occluded=True)
    assert outcome(registry) is None


def test_a_small_move_says_that_the_machine_was_right(registry, found):
    edit_object(registry, found, "Ada", bbox=(102, 100, 50, 50))
    assert outcome(registry) is True


def test_a_correction_is_a_review_without_a_validation_of_its_own(registry, found):
    edit_object(registry, found, "Ada", category="bolt")
    (review,) = list_reviews(registry, "parts")
    assert (review.category, review.correct) == ("nut", False)


def test_what_a_rule_validated_is_no_review_until_a_person_judges_it(registry, accepted):
    assert outcome(registry) is None
    edit_object(registry, accepted, "Ada", is_difficult=True)
    assert outcome(registry) is None
    validate_objects(registry, [accepted], "Ada")
    assert outcome(registry) is True
    stands = get_object(registry, accepted)
    assert (stands["validated_by"], stands["validation_rule"]) == ("Ada", None)


def test_correcting_what_a_rule_validated_makes_it_the_persons_and_is_a_review(registry, accepted):
    edit_object(registry, accepted, "Ada", category="bolt")
    stands = get_object(registry, accepted)
    assert [stands[name] for name in ("is_validated", "validated_by", "validation_rule")] == [True, "Ada", None]
    assert outcome(registry) is False
    assert undo_acceptance(registry, "parts") == {}
    assert get_object(registry, accepted) == stands


def test_an_edit_from_before_the_machines_label_was_kept_is_no_review_but_a_deletion_is(registry, found):
    edit_object(registry, found, "Ada", category="bolt")
    validate_objects(registry, [found], "Ada")
    with registry.session() as session:
        session.execute(text("UPDATE objects SET machine_label = NULL"))
    edit_object(registry, found, "Ada", category="nut")
    assert outcome(registry) is None
    delete_objects(registry, [found], "Ada")
    assert outcome(registry) is False


def test_labelling_again_changes_no_review(registry, register, label, frame, found):
    edit_object(registry, found, "Ada", category="bolt")
    before = list_reviews(registry, "parts")
    register(label(frame, (101.0, 100.0, 50.0, 50.0), "washer", model="m@2", confidence=0.2))
    assert list_reviews(registry, "parts") == before


def test_no_person_is_called_auto(registry, found):
    from al_dagster.core.errors import UserError

    with pytest.raises(UserError, match="'auto' stands for automatic acceptance"):
        validate_objects(registry, [found], "auto")
