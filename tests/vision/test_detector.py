import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.geometry import iou_matrix
from al_dagster.core.project import PROPOSAL
from al_dagster.vision.detector import OpenCvDetector
from al_dagster.vision.protocols import Prompt

PHOTOS = {
    "bus": ("ultralytics", "assets/bus.jpg"),
    "zidane": ("ultralytics", "assets/zidane.jpg"),
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}


def _photo(name):
    package, path = PHOTOS[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    file = Path(spec.origin).parent / path
    if not file.is_file():
        pytest.skip(f"{package} comes without {path}")
    return cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)


def _sure(detections):
    return detections[detections.confidence >= 0.3]


@pytest.mark.parametrize(("name", "centre"), [("zidane", (995, 185)), ("hopper", (265, 215))])
def test_a_face_in_a_photo_is_found(name, centre):
    found = _sure(OpenCvDetector().detect([_photo(name)], [Prompt("face")])[0])
    assert any(x1 < centre[0] < x2 and y1 < centre[1] < y2 for x1, y1, x2, y2 in found.xyxy)


def test_people_in_a_street_are_found():
    found = _sure(OpenCvDetector().detect([_photo("bus")], [Prompt("person")])[0])
    standing = np.array([[48, 398, 246, 903], [221, 405, 345, 858]])
    assert (iou_matrix(standing, found.xyxy) > 0.4).any()


@pytest.mark.parametrize("name", ["china", "flower"])
def test_a_photo_without_people_gives_no_person_and_no_face(name):
    assert len(_sure(OpenCvDetector().detect([_photo(name)], [Prompt("person"), Prompt("face")])[0])) == 0


def test_a_smile_is_looked_for_in_faces_only():
    assert len(OpenCvDetector().detect([_photo("china")], [Prompt("smile")])[0]) == 0


def test_things_on_a_table_are_proposed_whole_and_without_their_shadows(tabletop, disc_and_bar):
    found = _sure(OpenCvDetector().detect([tabletop], [Prompt(PROPOSAL)])[0])
    assert (iou_matrix(disc_and_bar, found.xyxy).max(axis=1) > 0.8).all()
    assert len(found) == 2


def test_touching_discs_are_proposed_one_by_one():
    image = np.full((200, 300, 3), (60, 90, 120), np.uint8)
    cv2.circle(image, (100, 100), 30, (200, 190, 60), -1)
    cv2.circle(image, (160, 100), 30, (200, 190, 60), -1)
    found = OpenCvDetector().detect([image], [Prompt(PROPOSAL)])[0]
    discs = np.array([[70, 70, 131, 131], [130, 70, 191, 131]])
    assert (iou_matrix(discs, found.xyxy).max(axis=1) > 0.8).all()


def test_the_same_image_gives_the_same_boxes_to_the_bit(tabletop):
    first, second = OpenCvDetector().detect([tabletop, tabletop], [Prompt(PROPOSAL), Prompt("face")])
    again = OpenCvDetector().detect([tabletop], [Prompt(PROPOSAL), Prompt("face")])[0]
    for other in (second, again):
        assert np.array_equal(first.xyxy, other.xyxy)
        assert np.array_equal(first.confidence, other.confidence)


@pytest.mark.parametrize("shape", [(1, 1), (10, 2000), (2000, 10), (16, 16), (64, 64)])
def test_any_size_of_image_gives_boxes_inside_it(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    detector = OpenCvDetector()
    found = detector.detect([image], [Prompt("person"), Prompt("face"), Prompt("eye"), Prompt(PROPOSAL)])[0]
    assert (found.xyxy[:, :2] >= 0).all()
    assert (found.xyxy[:, 2:] <= [shape[1], shape[0]]).all()
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()


def test_a_blank_image_gives_nothing():
    blank = np.full((120, 160, 3), 200, np.uint8)
    assert len(OpenCvDetector().detect([blank], [Prompt(PROPOSAL), Prompt("face")])[0]) == 0


def test_an_unknown_class_is_refused_with_the_known_ones_and_the_way_out():
    with pytest.raises(UserError, match=r"'unicorn'.*person, face.*support folder"):
        OpenCvDetector().check_prompts([Prompt("face"), Prompt("unicorn")])


def test_class_ids_are_indices_into_the_prompts(tabletop):
    found = OpenCvDetector().detect([tabletop], [Prompt("face"), Prompt(PROPOSAL)])[0]
    assert set(found.class_id) == {1}


def test_unloading_and_detecting_again_gives_the_same(tabletop):
    detector = OpenCvDetector()
    before = detector.detect([tabletop], [Prompt(PROPOSAL)])[0]
    detector.unload()
    assert np.array_equal(before.xyxy, detector.detect([tabletop], [Prompt(PROPOSAL)])[0].xyxy)
