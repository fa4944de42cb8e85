import numpy as np

from al_dagster.core.geometry import iou_matrix
from al_dagster.vision.proposals import propose


def test_cells_that_crowd_a_slide_are_proposed_one_by_one(blood_cells):
    image, cells = blood_cells(0.85)
    assert cells.mean() > 0.5
    centres = np.array([[x, y] for y in range(20, 240, 40) for x in range(20, 320, 40)])
    truth = np.concatenate([centres - 17, centres + 18], axis=1)
    boxes, confidences = propose(image)
    assert (iou_matrix(truth, boxes).max(axis=1) > 0.7).all()
    assert (confidences > 0.3).all()


def test_the_surface_that_touching_cells_enclose_is_no_object(blood_cells):
    image, _ = blood_cells(1.0)
    image[70:170, 110:210] = (196, 195, 192)
    boxes, _ = propose(image)
    assert len(boxes) >= 10
    assert not (iou_matrix(np.array([[110, 70, 210, 170]]), boxes) > 0.7).any()
