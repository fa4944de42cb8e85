import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from al_dagster.vision.polygons import TOLERANCE, mask_polygons
from al_dagster.vision.protocols import Mask


@settings(max_examples=80, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))), st.integers(0, 50), st.integers(0, 50))
def test_rings_have_corners_inside_the_mask_s_box_and_one_for_each_part(pixels, x, y):
    rings = mask_polygons(Mask(pixels, x, y, 1.0))
    parts, _ = cv2.connectedComponents(pixels.astype(np.uint8), connectivity=8)
    assert len(rings) == parts - 1
    for ring in rings:
        assert len(ring) >= 6
        assert len(ring) % 2 == 0
        assert all(x <= value <= x + pixels.shape[1] for value in ring[0::2])
        assert all(y <= value <= y + pixels.shape[0] for value in ring[1::2])


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60))
def test_drawing_the_ring_gives_the_mask_back(width, height):
    pixels = np.zeros((70, 70), np.uint8)
    cv2.ellipse(pixels, (35, 35), (width // 2, height // 2), 20, 0, 360, 1, -1)
    ring = mask_polygons(Mask(pixels.astype(bool), 0, 0, 1.0))[0]
    drawn = np.zeros_like(pixels)
    cv2.fillPoly(drawn, [np.array(ring).reshape(-1, 2).astype(np.int32)], 1)
    border = cv2.dilate(pixels, np.ones((5, 5), np.uint8)) - cv2.erode(pixels, np.ones((5, 5), np.uint8))
    assert TOLERANCE <= 2
    assert not ((drawn != pixels) & (border == 0)).any()


def test_an_empty_mask_has_no_ring():
    assert mask_polygons(Mask(np.zeros((5, 5), bool), 0, 0, 0.0)) == []


def test_the_largest_part_comes_first():
    pixels = np.zeros((30, 30), bool)
    pixels[1:4, 1:4] = True
    pixels[10:28, 10:28] = True
    assert min(mask_polygons(Mask(pixels, 100, 200, 1.0))[0]) >= 110
