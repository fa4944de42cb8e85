import numpy as np
import pytest
import supervision as sv

from al_dagster.core.errors import UserError
from al_dagster.labelling.quality import boxes_inside_image


class FixedDetector:
    """Finds the same boxes in every image."""

    model_id, revision, images_per_call, least_confidence = "fixed", "1", 8, 0.3

    def __init__(self, boxes, confidence, class_id) -> None:
        self.found = sv.Detections(
            xyxy=np.array(boxes, dtype=np.float32),
            confidence=np.array(confidence, dtype=np.float32),
            class_id=np.array(class_id),
        )

    def check_prompts(self, prompts) -> None: ...

    def detect(self, images, prompts):
        return [self.found for _ in images]


def with_detector(chain, *found):
    chain.models = type(chain.models)(FixedDetector(*found), chain.models.segmenter, chain.models.embedder)
    chain.sources()
    chain.frames()
    return chain.detections()


def test_the_shapes_are_found_where_they_lie(chain):
    rows = chain.up_to("detections").table.to_pylist()
    assert len(rows) == 4
    assert {row["label"] for row in rows} == {"object"}
    for frame in {row["frame_id"] for row in rows}:
        left, right = sorted(row["bbox_x"] for row in rows if row["frame_id"] == frame)
        assert left < 80 < right


def test_frames_that_were_detected_are_not_detected_again(chain):
    first = chain.up_to("detections")
    again = chain.detections()
    assert (again.computed, again.reused) == (0, 2)
    assert again.table.equals(first.table, check_metadata=True)


def test_where_everything_is_reused_the_detector_is_not_touched(chain):
    first = chain.up_to("detections")
    known = chain.models.detector

    class Untouched:
        model_id, revision = known.model_id, known.revision
        images_per_call, least_confidence = known.images_per_call, known.least_confidence

    chain.models = type(chain.models)(Untouched(), chain.models.segmenter, chain.models.embedder)
    assert chain.detections().table.equals(first.table, check_metadata=True)


def test_a_new_threshold_detects_again(chain):
    chain.up_to("detections")
    chain.project = chain.project.model_copy(
        update={"detection": chain.project.detection.model_copy(update={"confidence": 1.0})}
    )
    result = chain.detections()
    assert (result.computed, result.table.num_rows) == (2, 0)
    assert chain.detections().computed == 0


def test_a_class_that_the_detector_cannot_know_is_an_error_that_lists_what_it_knows(chain):
    chain.project = chain.project.model_copy(update={"support": None})
    with pytest.raises(UserError, match=r"does not know 'disc', 'bar'; it knows person"):
        chain.up_to("detections")


def test_an_unknown_class_is_an_error_even_of_a_batch_without_frames(chain, home):
    for path in (home.path / "images").iterdir():
        path.unlink()
    chain.project = chain.project.model_copy(update={"support": None})
    with pytest.raises(UserError, match="does not know"):
        chain.up_to("detections")


def test_boxes_are_cut_to_the_image_and_those_without_area_dropped(chain):
    result = with_detector(
        chain, [[-5, -5, 20, 20], [150, 100, 180, 140], [200, 10, 220, 30]], [0.9, 0.8, 0.7], [0, 0, 0]
    )
    assert result.table.num_rows == 4
    assert boxes_inside_image(result.table, chain.last("frames")).passed


def test_of_two_boxes_of_one_label_for_one_thing_the_surer_is_kept(chain):
    chain.project = chain.project.model_copy(update={"classes": ("person",), "support": None})
    result = with_detector(chain, [[10, 10, 30, 30], [11, 11, 31, 31]], [0.6, 0.9], [0, 0])
    assert result.table["confidence"].to_pylist() == pytest.approx([0.9, 0.9])


def test_proposals_of_the_same_pixels_are_all_kept_for_the_classifier_to_choose(chain):
    result = with_detector(chain, [[10, 10, 30, 30], [11, 11, 31, 31]], [0.6, 0.9], [0, 0])
    assert result.table["confidence"].to_pylist() == pytest.approx([0.9, 0.6] * 2)


def test_boxes_that_are_the_same_to_a_tenth_of_a_pixel_are_one_object(chain):
    result = with_detector(chain, [[10, 10, 30, 30], [10.01, 10, 30.01, 30]], [0.6, 0.9], [0, 0])
    assert result.table.num_rows == 2
    assert len(set(result.table["object_id"].to_pylist())) == 2


def test_two_projects_have_different_objects_in_the_same_picture(chain):
    ids = set(chain.up_to("detections").table["object_id"].to_pylist())
    chain.project = chain.project.model_copy(update={"name": "other"})
    chain.tables.pop("detections")
    assert not ids & set(chain.detections().table["object_id"].to_pylist())


def test_a_picture_that_vanished_before_detection_is_left_out_and_tried_again(chain, home, shapes, save_picture):
    chain.sources()
    chain.frames()
    chain.images.clear()
    (home.path / "images" / "picture_0.png").unlink()
    assert chain.detections().table.num_rows == 2
    home.pictures(1)
    chain.images.clear()
    again = chain.detections()
    assert (again.computed, again.table.num_rows) == (1, 4)
