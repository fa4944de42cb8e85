import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.vision.grabcut import FALLBACK_SCORE, GrabCutSegmenter, whole_pixels


def test_masks_cover_the_things_and_not_their_shadows(tabletop, disc_and_bar):
    disc, bar = GrabCutSegmenter().segment([tabletop], [disc_and_bar + np.array([-3, -3, 3, 3])])[0]
    rows, columns = np.indices(tabletop.shape[:2])
    truth_disc = np.hypot(columns - 80, rows - 85) <= 27.5
    truth_bar = (rows >= 120) & (rows <= 148) & (columns >= 180) & (columns <= 280)
    for mask, truth in ((disc, truth_disc), (bar, truth_bar)):
        full = mask.full(320, 240)
        assert (full & truth).sum() / (full | truth).sum() > 0.85
        assert mask.score > 0.5


def test_the_same_box_gives_the_same_mask_to_the_bit(tabletop, disc_and_bar):
    first, second = GrabCutSegmenter().segment([tabletop, tabletop], [disc_and_bar, disc_and_bar[::-1]])
    assert np.array_equal(first[0].pixels, second[1].pixels)
    assert first[0].score == second[1].score


def test_the_edge_of_a_neighbour_that_touches_is_no_part_of_the_object():
    image = np.full((140, 180, 3), (60, 90, 120), np.uint8)
    cv2.circle(image, (70, 70), 32, (200, 190, 60), -1)
    rows, columns = np.indices(image.shape[:2])
    disc = np.hypot(columns - 70, rows - 70) <= 32.5
    cv2.line(image, (20, 36), (150, 36), (200, 190, 60), 7)
    mask = GrabCutSegmenter().segment([image], [np.array([[36, 36, 104, 104]])])[0][0].full(180, 140)
    assert (mask & disc).sum() / (mask | disc).sum() > 0.91


def test_a_handle_that_is_thin_beside_the_rest_stays():
    image = np.full((140, 260, 3), (60, 90, 120), np.uint8)
    cv2.line(image, (70, 70), (220, 70), (200, 190, 60), 11)
    cv2.circle(image, (70, 70), 32, (200, 190, 60), -1)
    mask = GrabCutSegmenter().segment([image], [np.array([[36, 36, 228, 104]])])[0][0].full(260, 140)
    assert mask[70, 120:215].mean() > 0.9


def test_in_a_crowd_the_mask_is_the_one_cell_of_its_box(blood_cells):
    image, cells = blood_cells(0.85)
    box = np.array([[80, 80, 120, 120]])
    mask = GrabCutSegmenter().segment([image], [box])[0][0]
    cell = np.zeros_like(cells)
    cell[80:120, 80:120] = cells[80:120, 80:120]
    full = mask.full(320, 240)
    assert mask.score > FALLBACK_SCORE
    assert (full & cell).sum() / (full | cell).sum() > 0.85


def test_where_nothing_stands_out_the_mask_is_an_ellipse_with_a_low_score():
    image = np.full((100, 100, 3), 90, np.uint8)
    mask = GrabCutSegmenter().segment([image], [np.array([[20, 30, 60, 50]])])[0][0]
    assert mask.score == FALLBACK_SCORE
    assert mask.area == pytest.approx(np.pi * 20 * 10, rel=0.05)


@settings(max_examples=40)
@given(st.lists(st.floats(-30, 130), min_size=4, max_size=4), st.integers(1, 90), st.integers(1, 90))
def test_a_mask_is_never_empty_and_never_outside_its_box(corners, width, height):
    image = np.random.default_rng(width * 91 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    box = np.array(
        [
            min(corners[0], corners[2]),
            min(corners[1], corners[3]),
            max(corners[0], corners[2]),
            max(corners[1], corners[3]),
        ]
    )
    mask = GrabCutSegmenter().segment([image], [box[None]])[0][0]
    x1, y1, x2, y2 = whole_pixels(box, width, height)
    assert (mask.x, mask.y, mask.pixels.shape) == (x1, y1, (y2 - y1, x2 - x1))
    assert mask.area > 0
    assert 0 <= mask.score <= 1


def test_no_boxes_give_no_masks(tabletop):
    assert GrabCutSegmenter().segment([tabletop], [np.empty((0, 4))]) == [[]]
