"""The parts of a confidence, from the detector to the registry."""

from dataclasses import replace

import numpy as np
import pytest
import supervision as sv

from al_dagster.labelling.calibrate import calibrate
from al_dagster.registry.objects import list_objects
from al_dagster.vision.protocols import P_BOX, P_LABEL


class PartsDetector:
    """Finds the disc of every picture and gives both parts of its confidence."""

    model_id, revision, images_per_call, least_confidence = "parts", "1", 8, 0.3

    def check_prompts(self, prompts) -> None: ...

    def detect(self, images, prompts):
        found = sv.Detections(
            xyxy=np.array([[10, 20, 60, 110], [100, 20, 150, 110]], dtype=np.float32),
            confidence=np.array([0.4, 0.72], dtype=np.float32),
            class_id=np.array([0, 0]),
            data={P_LABEL: np.array([0.5, 0.9]), P_BOX: np.array([0.8, 0.8])},
        )
        return [found for _ in images]


@pytest.fixture
def parts(chain):
    chain.models = replace(chain.models, detector=PartsDetector())
    return chain


def test_the_parts_of_a_confidence_are_kept_with_their_detection(parts):
    parts.up_to("detections")
    rows = parts.last("detections").to_pylist()
    assert {(row["confidence"], row["p_label"], row["p_box"]) for row in rows} == {(0.72, 0.9, 0.8), (0.4, 0.5, 0.8)}
    assert parts.detections().reused == 2
    assert parts.last("detections").to_pylist() == rows


def test_a_detector_without_parts_leaves_them_empty(chain):
    chain.up_to("detections")
    rows = chain.last("detections").to_pylist()
    assert {(row["p_label"], row["p_box"]) for row in rows} == {(None, None)}


def test_objects_have_the_parts_and_the_calibrated_figure_of_their_detector(parts, add_reviewed, some_outcomes):
    add_reviewed(parts.registry, some_outcomes(100, 1), model="parts@1")
    calibrate(parts.registry, "shapes")
    parts.up_to("objects")
    rows = [row for row in list_objects(parts.registry, limit=None) if row["p_label"] is not None]
    assert rows
    for row in rows:
        assert (row["confidence"], row["p_label"], row["p_box"]) in {(0.72, 0.9, 0.8), (0.4, 0.5, 0.8)}
        assert 0 < row["calibrated_confidence"] < 1
