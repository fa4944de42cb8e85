import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from al_dagster.vision.polygons import edge_rings, mask_polygons
from al_dagster.vision.protocols import Mask

COCO64 = Path(__file__).parents[3] / "shared" / "data" / "coco64" / "instances.json"
RING = np.pad(np.pad([[False]], 1, constant_values=True), 2)
DIAGONAL = np.eye(4, dtype=bool)

pictures = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def fill(rings: list[NDArray[np.floating]], width: int, height: int) -> NDArray[np.bool_]:
    """The pixels whose centre lies inside an odd number of rings."""
    inside = np.zeros((height, width), dtype=bool)
    centres = np.arange(width) + 0.5
    for ring in rings:
        x1, y1 = ring.T.astype(float)
        x2, y2 = np.roll(ring, -1, axis=0).T.astype(float)
        for row in range(height):
            crossing = (y1 <= row + 0.5) != (y2 <= row + 0.5)
            x, y = x1[crossing], y1[crossing]
            at = np.sort(x + (row + 0.5 - y) * (x2[crossing] - x) / (y2[crossing] - y))
            inside[row] ^= np.searchsorted(at, centres) % 2 == 1
    return inside


def doubled_area(ring: NDArray[np.floating]) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())


def overlap(pixels: NDArray[np.bool_]) -> float:
    rings = [np.array(ring).reshape(-1, 2) for ring in mask_polygons(Mask(pixels, 0, 0, 1.0))]
    filled = fill(rings, pixels.shape[1], pixels.shape[0])
    return float((filled & pixels).sum() / (filled | pixels).sum())


@settings(max_examples=300)
@given(pictures, st.integers(0, 5), st.integers(0, 5))
@example(np.ones((1, 1), dtype=bool), 0, 0)
@example(DIAGONAL, 0, 0)
@example(RING, 0, 0)
def test_filling_the_rings_along_the_edges_gives_the_mask_back_exactly(pixels, x, y):
    mask = Mask(pixels, x, y, 1.0)
    width, height = x + pixels.shape[1], y + pixels.shape[0]

    rings = edge_rings(mask)

    assert np.array_equal(fill(rings, width, height), mask.full(width, height))
    for ring in rings:
        steps = np.roll(ring, -1, axis=0) - ring
        assert ((steps == 0).sum(axis=1) == 1).all(), "every step runs along an edge"
        assert (steps != np.roll(steps, 1, axis=0)).any(axis=1).all(), "no corner lies on a straight line"


@settings(max_examples=200)
@given(pictures)
@example(DIAGONAL)
@example(RING)
def test_a_ring_for_each_part_runs_one_way_and_a_ring_for_each_hole_the_other(pixels):
    parts, _ = cv2.connectedComponents(pixels.astype(np.uint8), connectivity=8)
    around = np.pad(~pixels, 1, constant_values=True).astype(np.uint8)
    holes, _ = cv2.connectedComponents(around, connectivity=4)

    for rings in (
        edge_rings(Mask(pixels, 0, 0, 1.0)),
        [np.array(ring).reshape(-1, 2) for ring in mask_polygons(Mask(pixels, 0, 0, 1.0))],
    ):
        areas = [doubled_area(ring) for ring in rings]
        assert sum(area < 0 for area in areas) == parts - 1
        assert sum(area > 0 for area in areas) == holes - 2
        assert not areas or areas[0] < 0


def test_an_outer_ring_runs_counter_clockwise_as_the_image_is_seen():
    (ring,) = mask_polygons(Mask(np.ones((2, 3), dtype=bool), 10, 20, 1.0))

    assert ring == [10, 20, 10, 22, 13, 22, 13, 20]


def test_the_holes_of_a_part_follow_its_ring_and_the_largest_part_comes_first():
    pixels = np.zeros((30, 60), dtype=bool)
    pixels[1:9, 1:9] = True
    pixels[3:5, 3:5] = False
    pixels[5:29, 30:55] = True
    pixels[10:20, 35:45] = False

    left_edges = [int(ring[:, 0].min()) for ring in edge_rings(Mask(pixels, 100, 0, 1.0))]

    assert left_edges == [130, 135, 101, 103]


@settings(max_examples=100)
@given(pictures.filter(lambda pixels: pixels.any()))
@example(np.ones((3, 3), dtype=bool))
@example(DIAGONAL)
def test_small_masks_keep_their_shape(pixels):
    assert overlap(pixels) >= 0.9


@settings(max_examples=30)
@given(st.integers(3, 60), st.integers(3, 60), st.integers(0, 180), st.floats(0, 0.8))
def test_simplified_rings_of_discs_and_washers_cover_them(width, height, angle, hole):
    pixels = np.zeros((70, 70), np.uint8)
    cv2.ellipse(pixels, (35, 35), (width // 2, height // 2), angle, 0, 360, 1, -1)
    if hole:
        cv2.ellipse(pixels, (35, 35), (int(width * hole) // 2, int(height * hole) // 2), angle, 0, 360, 0, -1)
    if not pixels.any():
        return

    assert overlap(pixels.astype(bool)) >= 0.9


@pytest.mark.skipif(not COCO64.exists(), reason="needs the outlines of COCO in ../shared/data")
def test_simplified_rings_cover_outlines_of_real_objects():
    document = json.loads(COCO64.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    overlaps, corners = [], []
    for row in document["polygons"]:
        encoded = coco_masks.frPyObjects([row["polygon"]], *sizes[row["image_id"]])
        x, y, w, h = coco_masks.toBbox(encoded)[0].astype(int)
        pixels = coco_masks.decode(encoded)[y : y + h, x : x + w, 0].astype(bool)
        overlaps.append(overlap(pixels))
        corners.append(sum(len(ring) // 2 for ring in mask_polygons(Mask(pixels, x, y, 1.0))))

    assert len(overlaps) > 400
    assert np.mean(overlaps) >= 0.99
    assert min(overlaps) >= 0.95
    assert np.median(corners) <= 40


def test_an_empty_mask_has_no_ring():
    assert edge_rings(Mask(np.zeros((5, 5), bool), 0, 0, 0.0)) == []
    assert mask_polygons(Mask(np.zeros((5, 5), bool), 0, 0, 0.0)) == []
