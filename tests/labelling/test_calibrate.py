"""Calibrating a project's detectors on its reviews."""

import pytest

from al_dagster.labelling.calibrate import calibrate, due_calibrations
from al_dagster.registry.calibrations import standing_calibrations
from al_dagster.registry.database import open_registry
from al_dagster.registry.objects import get_object, list_objects
from al_dagster.registry.projects import save_project
from al_dagster.registry.review import delete_objects, validate_objects


@pytest.fixture
def registry(home):
    with open_registry(home.settings.database_url) as registry:
        save_project(registry, home.project())
        yield registry


def test_without_reviews_there_is_nothing_to_say(registry):
    report = calibrate(registry, "shapes")
    assert (report.detectors, report.thresholds, report.recalibrated, report.diagram) == ([], [], 0, None)
    assert due_calibrations(registry) == {}


def test_a_detector_with_too_few_reviews_stays_uncalibrated_and_says_how_many_there_are(
    registry, add_reviewed, some_outcomes
):
    add_reviewed(registry, some_outcomes(49))
    (row,) = calibrate(registry, "shapes").detectors
    assert (row["method"], row["missing"], row["ece_raw"]) == ("uncalibrated", "49 of 50 reviews", None)
    assert {found["calibrated_confidence"] for found in list_objects(registry, limit=None)} == {None}
    assert due_calibrations(registry) == {}


def test_each_detector_is_calibrated_on_its_own_reviews(registry, add_reviewed, some_outcomes):
    add_reviewed(registry, some_outcomes(120, 1))
    add_reviewed(registry, some_outcomes(20, 2), model="m@2", first=100)
    waiting = add_reviewed(registry, [(0.4, None), (0.95, None)], first=200)
    report = calibrate(registry, "shapes")
    rows = {row["detection_model"]: row for row in report.detectors}
    assert {model: row["method"] for model, row in rows.items()} == {"m@1": "platt", "m@2": "uncalibrated"}
    assert rows["m@1"]["ece_calibrated"] < rows["m@1"]["ece_raw"]
    assert report.recalibrated == 122
    low, high = (get_object(registry, name)["calibrated_confidence"] for name in waiting)
    assert 0 < low < 0.4 < 0.95 < high < 1
    assert report.diagram.startswith(b"\x89PNG")
    assert {row["detection_model"] for row in report.thresholds} == {"m@1"}


def test_the_table_of_thresholds_says_what_each_precision_would_accept(registry, add_reviewed, some_outcomes):
    add_reviewed(registry, some_outcomes(400, 3))
    add_reviewed(registry, [(0.999, None)] * 7, first=200)
    rows = calibrate(registry, "shapes").thresholds
    assert [row["precision"] for row in rows] == [0.8, 0.9, 0.95, 0.99]
    assert [row["objects"] for row in rows[:3]] == [7, 7, 7]
    assert all(row["bound"] >= row["precision"] for row in rows[:3])
    assert rows[3] == {**rows[3], "confidence": None, "reviews": 0, "bound": None, "objects": 0}


def test_calibrating_again_with_the_same_reviews_changes_nothing(registry, add_reviewed, some_outcomes):
    add_reviewed(registry, some_outcomes(60))
    first = calibrate(registry, "shapes")
    standing = standing_calibrations(registry, "shapes")
    again = calibrate(registry, "shapes")
    assert (again.content_hash, again.recalibrated) == (first.content_hash, 0)
    assert standing_calibrations(registry, "shapes") == standing


def test_a_project_is_due_at_fifty_reviews_and_then_when_a_tenth_has_changed(registry, add_reviewed, some_outcomes):
    add_reviewed(registry, some_outcomes(60, 1))
    first = due_calibrations(registry)
    assert list(first) == ["shapes"]
    calibrate(registry, "shapes")
    assert due_calibrations(registry) == {}
    new = add_reviewed(registry, [(0.5, None)] * 6, first=100)
    validate_objects(registry, new[:5], "ann")
    assert due_calibrations(registry) == {}
    delete_objects(registry, [new[5]], "ann")
    second = due_calibrations(registry)
    assert list(second) == ["shapes"]
    assert first != second


def test_outcomes_that_turned_are_a_change_too(registry, add_reviewed, some_outcomes):
    outcomes = some_outcomes(60, 1)
    named = add_reviewed(registry, outcomes)
    calibrate(registry, "shapes")
    right = [name for name, (_, correct) in zip(named, outcomes, strict=True) if correct]
    for name in right[:2]:
        delete_objects(registry, [name], "ann")
    assert due_calibrations(registry) == {}
    delete_objects(registry, [right[2]], "ann")
    assert list(due_calibrations(registry)) == ["shapes"]


def test_of_many_reviews_twenty_new_ones_are_enough(registry, add_reviewed, some_outcomes):
    add_reviewed(registry, some_outcomes(300, 1))
    calibrate(registry, "shapes")
    add_reviewed(registry, [(0.9, True)] * 19, first=500)
    assert due_calibrations(registry) == {}
    add_reviewed(registry, [(0.9, True)], first=600)
    assert list(due_calibrations(registry)) == ["shapes"]
