import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.vision.necks import split_touching


def test_discs_that_touch_come_apart_and_a_disc_alone_stays_whole():
    objects = np.zeros((120, 260), np.uint8)
    for x in (50, 108, 210):
        cv2.circle(objects, (x, 60), 30, 1, -1)
    parts = split_touching(objects, 0.6)[0]
    assert len(np.unique(parts[objects > 0])) == 3
    assert len(np.unique(parts[:, 175:][objects[:, 175:] > 0])) == 1


def test_without_a_least_neck_what_touches_is_one():
    objects = np.zeros((120, 200), np.uint8)
    for x in (50, 108):
        cv2.circle(objects, (x, 60), 30, 1, -1)
    assert len(np.unique(split_touching(objects, 0.0)[0][objects > 0])) == 1


def test_a_bar_of_even_width_stays_whole_at_any_turn():
    for angle in range(0, 90, 7):
        objects = np.zeros((160, 160), np.uint8)
        corners = cv2.boxPoints(((80, 80), (120, 24), angle))
        cv2.fillPoly(objects, [np.round(corners).astype(np.int32)], 1)
        assert split_touching(objects, 0.75)[0].max() == 1


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40))
def test_every_pixel_inside_has_a_part_and_a_narrower_neck_cuts_no_more(seed, height, width):
    objects = (np.random.default_rng(seed).random((height, width)) < 0.8).astype(np.uint8)
    cut, uncut, whole = split_touching(objects, 0.9, 0.5, 0.0)
    for parts in (cut, uncut, whole):
        assert np.array_equal(parts > 0, objects > 0)
        assert set(np.unique(parts)) - {0} == set(range(1, parts.max() + 1))
    assert cut.max() >= uncut.max() >= whole.max() == cv2.connectedComponents(objects, connectivity=8)[0] - 1
