"""Objects validated by a rule."""

import pytest

from al_dagster.core.calibrator import Calibrator
from al_dagster.core.errors import UserError
from al_dagster.registry.acceptance import AcceptanceRule, accept, acceptable, open_objects, undo_acceptance
from al_dagster.registry.calibrations import NewCalibration, calibration_id, replace_calibrations
from al_dagster.registry.objects import get_object, list_objects
from al_dagster.registry.review import delete_objects, edit_object, list_conflicts, validate_objects

CALIBRATION = calibration_id("parts", "m@1", "hash")


@pytest.fixture
def objects(registry, register, label, frame):
    """Five nuts of confidence 0.1, 0.3, …, 0.9 and a bolt, of a calibrated detector; the ids of the nuts."""
    replace_calibrations(
        registry,
        "parts",
        {"m@1": NewCalibration(Calibrator("constant", {"value": 0.9}), 50, 45, 0.1, 0.0, "hash")},
    )
    nuts = [label(frame, (x * 60.0, 0, 50, 50), confidence=0.1 + 0.2 * x) for x in range(5)]
    register(*nuts, label(frame, (0, 200, 50, 50), "bolt", confidence=0.95))
    return [nut.object_id for nut in nuts]


def rule(least: float = 0.5, category: str | None = None, **other: str) -> AcceptanceRule:
    values = {"project_id": "parts", "detection_model": "m@1", "calibration_id": CALIBRATION, **other}
    return AcceptanceRule(min_confidence=least, category=category, text="the rule", **values)


def accepted(registry) -> set[str]:
    return {row["object_id"] for row in list_objects(registry) if row["validated_by"] == "auto"}


def test_objects_at_least_so_sure_are_validated_by_auto_with_the_rule(registry, objects):
    rows = accept(registry, rule(category="nut"))
    assert {row["object_id"] for row in rows} == set(objects[2:]) == accepted(registry)
    assert {(row["category"], row["calibrated_confidence"]) for row in rows} == {("nut", 0.9)}
    stands = get_object(registry, objects[2])
    assert (stands["is_validated"], stands["validation_rule"]) == (True, "the rule")
    assert stands["validated_at"] is not None
    assert get_object(registry, objects[1])["validation_rule"] is None


def test_looking_first_changes_nothing_and_says_the_same(registry, objects, contents):
    before = contents()
    seen = acceptable(registry, rule())
    assert contents() == before
    assert accept(registry, rule()) == seen


def test_doing_it_again_accepts_nothing_more(registry, objects, contents):
    accept(registry, rule())
    before = contents()
    assert accept(registry, rule()) == []
    assert contents() == before


def test_what_a_person_touched_is_left_alone(registry, objects):
    validate_objects(registry, [objects[2]], "Ada")
    edit_object(registry, objects[3], "Ada", is_difficult=True)
    delete_objects(registry, [objects[4]], "Ada")
    before = [get_object(registry, name) for name in objects[2:]]
    assert {row["category"] for row in accept(registry, rule())} == {"bolt"}
    assert [get_object(registry, name) for name in objects[2:]] == before


def test_objects_of_other_detectors_and_superseded_ones_are_not_accepted(registry, objects, register, label, frame):
    register(label(frame, (300, 300, 50, 50), confidence=1.0, model="m@2"))
    assert open_objects(registry, "parts") == {"m@2": 1}
    assert accept(registry, rule(0.0)) == []


def test_open_objects_are_counted_by_detector_and_category(registry, objects):
    assert open_objects(registry, "parts") == {"m@1": 6}
    assert open_objects(registry, "parts", "bolt") == {"m@1": 1}
    assert open_objects(registry, "people") == {}


def test_a_calibration_that_was_replaced_supports_nothing(registry, objects):
    replace_calibrations(registry, "parts", {})
    with pytest.raises(UserError, match="was calibrated anew meanwhile"):
        accept(registry, rule())
    assert accepted(registry) == set()


def test_labelling_again_leaves_accepted_objects_as_they_are(registry, objects, register, label, frame):
    accept(registry, rule())
    before = get_object(registry, objects[4])
    register(label(frame, (241, 0, 50, 50), "bolt", model="m@2"))
    assert get_object(registry, objects[4]) == before
    assert [conflict["object_id"] for conflict in list_conflicts(registry)] == [objects[4]]


def test_taking_it_back_leaves_what_a_person_confirmed_or_changed(registry, objects, register, label, frame):
    accept(registry, rule(0.0))
    validate_objects(registry, [objects[0]], "Ada")
    edit_object(registry, objects[1], "Ada", is_difficult=True)
    delete_objects(registry, [objects[2]], "Ada")
    register(label(frame, (241, 0, 50, 50), "bolt", model="m@2"))
    kept = [get_object(registry, name) for name in objects[:3]]
    assert undo_acceptance(registry, "parts") == {"bolt": 1, "nut": 2}
    assert [get_object(registry, name) for name in objects[:3]] == kept
    stands = get_object(registry, objects[4])
    assert (stands["is_validated"], stands["validated_by"], stands["validated_at"], stands["validation_rule"]) == (
        False,
        None,
        None,
        None,
    )
    assert list_conflicts(registry) == []
    assert undo_acceptance(registry, "parts") == {}


def test_taking_back_one_category_leaves_the_others_and_other_projects(registry, objects):
    accept(registry, rule(0.0))
    assert undo_acceptance(registry, "people") == {}
    assert undo_acceptance(registry, "parts", "bolt") == {"bolt": 1}
    assert accepted(registry) == set(objects)


def test_what_a_person_corrected_is_that_persons_and_not_taken_back(registry, objects):
    accept(registry, rule(0.0))
    edit_object(registry, objects[0], "Ada", category="bolt")
    edit_object(registry, objects[1], "Ada", bbox=(61, 0, 50, 50))
    kept = [get_object(registry, name) for name in objects[:2]]
    assert {(row["validated_by"], row["validation_rule"]) for row in kept} == {("Ada", None)}
    assert undo_acceptance(registry, "parts") == {"bolt": 1, "nut": 3}
    assert [get_object(registry, name) for name in objects[:2]] == kept


def test_a_contradiction_is_told_again_when_an_acceptance_is_taken_back_and_made_again(
    registry, objects, register, label, frame
):
    against = label(frame, (241, 0, 50, 50), "bolt", model="m@2")
    for _ in range(2):
        accept(registry, rule(0.9))
        register(against)
        assert [conflict["object_id"] for conflict in list_conflicts(registry)] == [objects[4]]
        assert undo_acceptance(registry, "parts")["nut"] == 1
        assert list_conflicts(registry) == []
