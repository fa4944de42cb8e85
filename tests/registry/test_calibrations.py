"""Calibrations and the objects that follow them."""

import pytest

from al_dagster.core.calibrator import Calibrator
from al_dagster.registry.calibrations import (
    NewCalibration,
    calibration_id,
    replace_calibrations,
    standing_calibrations,
)
from al_dagster.registry.labelling import register_batch
from al_dagster.registry.objects import get_object
from al_dagster.registry.review import edit_object, validate_objects
from al_dagster.registry.tables import Calibration, Object

HALF = Calibrator("isotonic", {"x": [0.0, 1.0], "y": [0.0, 0.5]})
PLATT = Calibrator("platt", {"slope": 1.5, "intercept": -0.25})


def fitted(calibrator: Calibrator, content_hash: str) -> NewCalibration:
    return NewCalibration(calibrator, 60, 40, 0.2, 0.05, content_hash)


@pytest.fixture
def frame(new_frame):
    return new_frame()


@pytest.fixture
def register(registry, parts, frame):
    def run(*labels, project=parts):
        batch = {"project_id": project, "batch_key": "parts--1", "run_id": "run-1", "frame_ids": [frame]}
        return register_batch(registry, objects=labels, **batch)

    return run


def figure(registry, label) -> float | None:
    return get_object(registry, label.object_id)["calibrated_confidence"]


def test_without_a_calibration_confidence_is_uncalibrated(registry, register, label, frame):
    made = label(frame, (0, 0, 50, 50))
    register(made)
    assert figure(registry, made) is None
    assert standing_calibrations(registry, "parts") == {}


def test_a_new_calibration_applies_to_the_objects_of_its_detector_and_project(registry, register, label, frame):
    mine, other = label(frame, (0, 0, 50, 50)), label(frame, (100, 0, 50, 50), model="m@2")
    register(mine, other)
    validate_objects(registry, [mine.object_id], "Ada")
    assert replace_calibrations(registry, "parts", {"m@1": fitted(HALF, "a")}) == 1
    assert (figure(registry, mine), figure(registry, other)) == (0.4, None)
    assert replace_calibrations(registry, "people", {"m@2": fitted(HALF, "a")}) == 0
    assert figure(registry, other) is None


def test_objects_registered_later_are_calibrated_with_the_parts_of_their_confidence_kept(
    registry, register, label, frame
):
    replace_calibrations(registry, "parts", {"m@1": fitted(HALF, "a")})
    made = label(frame, (0, 0, 50, 50), confidence=0.6, p_label=0.75, p_box=0.8)
    register(made)
    stands = get_object(registry, made.object_id)
    assert [stands[name] for name in ("confidence", "p_label", "p_box", "calibrated_confidence")] == [
        0.6,
        0.75,
        0.8,
        0.3,
    ]


def test_an_object_that_follows_another_detector_follows_its_calibration(registry, register, label, frame):
    replace_calibrations(registry, "parts", {"m@1": fitted(HALF, "a")})
    first = label(frame, (0, 0, 50, 50), p_label=0.9)
    register(first)
    register(label(frame, (1, 0, 50, 50), model="m@2"))
    stands = get_object(registry, first.object_id)
    assert (stands["detection_model"], stands["calibrated_confidence"], stands["p_label"]) == ("m@2", None, None)


def test_labelling_or_calibrating_again_with_the_same_writes_nothing(registry, register, label, frame, contents):
    labels = [label(frame, (x * 60.0, 0, 50, 50), confidence=x / 9 + 0.01) for x in range(9)]
    register(*labels)
    assert replace_calibrations(registry, "parts", {"m@1": fitted(PLATT, "a")}) == 9
    before = contents()
    register(*labels)
    assert replace_calibrations(registry, "parts", {"m@1": fitted(PLATT, "a")}) == 0
    assert contents() == before


def test_another_calibration_replaces_the_standing_one_which_is_kept(registry, register, label, frame):
    made = label(frame, (0, 0, 50, 50))
    register(made)
    for calibrator, content in ((HALF, "a"), (PLATT, "b")):
        replace_calibrations(registry, "parts", {"m@1": fitted(calibrator, content)})
    (standing,) = standing_calibrations(registry, "parts").values()
    assert (standing["calibration_id"], standing["method"]) == (calibration_id("parts", "m@1", "b"), "platt")
    assert standing["parameters"] == {"slope": 1.5, "intercept": -0.25}
    assert (standing["reviews"], standing["correct"], standing["ece_raw"]) == (60, 40, 0.2)
    assert figure(registry, made) == float(PLATT.apply(0.8))
    with registry.reader() as session:
        assert session.query(Calibration).count() == 2
    replace_calibrations(registry, "parts", {"m@1": fitted(HALF, "a")})
    assert standing_calibrations(registry, "parts")["m@1"]["content_hash"] == "a"
    assert figure(registry, made) == 0.4


def test_a_detector_that_lost_its_calibration_is_uncalibrated(registry, register, label, frame):
    made = label(frame, (0, 0, 50, 50))
    register(made)
    replace_calibrations(registry, "parts", {"m@1": fitted(HALF, "a")})
    assert replace_calibrations(registry, "parts", {}) == 1
    assert figure(registry, made) is None
    assert standing_calibrations(registry, "parts") == {}


@pytest.mark.parametrize("correction", [{"category": "bolt"}, {"bbox": (0, 0, 50, 49)}])
def test_a_corrected_object_has_no_calibrated_confidence_until_the_correction_is_taken_back(
    registry, register, label, frame, correction
):
    replace_calibrations(registry, "parts", {"m@1": fitted(HALF, "a")})
    made = label(frame, (0, 0, 50, 50))
    register(made)
    edit_object(registry, made.object_id, "Ada", is_difficult=True)
    assert figure(registry, made) == 0.4
    edit_object(registry, made.object_id, "Ada", **correction)
    assert figure(registry, made) is None
    assert replace_calibrations(registry, "parts", {"m@1": fitted(PLATT, "b")}) == 0
    register(made)
    assert figure(registry, made) is None
    edit_object(registry, made.object_id, "Ada", category="nut", bbox=(0, 0, 50, 50))
    assert figure(registry, made) == float(PLATT.apply(0.8))


def test_a_calibration_takes_the_figure_off_an_object_that_was_corrected_before(registry, register, label, frame):
    made = label(frame, (0, 0, 50, 50))
    register(made)
    edit_object(registry, made.object_id, "Ada", category="bolt")
    with registry.session() as session:
        session.get_one(Object, made.object_id).calibrated_confidence = 0.7
    assert replace_calibrations(registry, "parts", {"m@1": fitted(HALF, "a")}) == 1
    assert figure(registry, made) is None


def test_an_edit_from_before_the_machines_label_was_kept_has_no_calibrated_confidence(registry, register, label, frame):
    made = label(frame, (0, 0, 50, 50))
    register(made)
    edit_object(registry, made.object_id, "Ada", is_occluded=True)
    with registry.session() as session:
        session.get_one(Object, made.object_id).machine_label = None
    assert replace_calibrations(registry, "parts", {"m@1": fitted(HALF, "a")}) == 0
    assert figure(registry, made) is None
