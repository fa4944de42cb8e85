import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from al_dagster.core.geometry import clip_xyxy, iou_matrix, xywh_to_xyxy, xyxy_to_xywh

Boxes = NDArray[np.float64]
WHOLE = st.integers(-500, 1500)


@st.composite
def xyxy(draw: st.DrawFn) -> Boxes:
    """Up to five boxes of whole pixels, some empty, some outside of any image."""
    corners = draw(hnp.arrays(np.float64, (draw(st.integers(0, 5)), 4), elements=WHOLE))
    return np.concatenate(
        [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], axis=1
    )


@given(boxes=xyxy())
def test_conversion_there_and_back_gives_the_same_boxes(boxes: Boxes):
    np.testing.assert_array_equal(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)


def test_conversions_of_a_known_box():
    np.testing.assert_array_equal(xywh_to_xyxy(np.array([[10, 20, 30, 40]])), [[10, 20, 40, 60]])
    np.testing.assert_array_equal(xyxy_to_xywh(np.array([[10, 20, 40, 60]])), [[10, 20, 30, 40]])


@given(boxes=xyxy(), width=st.integers(1, 1000), height=st.integers(1, 1000))
def test_clipped_boxes_lie_inside_the_image_and_inside_themselves(boxes: Boxes, width: int, height: int):
    clipped = clip_xyxy(boxes, width, height)
    assert (clipped >= 0).all()
    assert (clipped <= [width, height, width, height]).all()
    assert (clipped[:, :2] <= clipped[:, 2:]).all()
    np.testing.assert_array_equal(clip_xyxy(clipped, width, height), clipped)
    inside = (boxes[:, :2] >= 0).all(axis=1) & (boxes[:, 2:] <= [width, height]).all(axis=1)
    np.testing.assert_array_equal(clipped[inside], boxes[inside])


def test_a_box_outside_the_image_becomes_empty():
    assert xyxy_to_xywh(clip_xyxy(np.array([[120, 10, 150, 30]]), 100, 100))[0, 2] == 0


@given(first=xyxy(), second=xyxy())
def test_overlap_is_symmetric_and_between_0_and_1(first: Boxes, second: Boxes):
    overlap = iou_matrix(first, second)
    assert overlap.shape == (len(first), len(second))
    assert ((overlap >= 0) & (overlap <= 1)).all()
    np.testing.assert_array_equal(overlap, iou_matrix(second, first).T)


@given(boxes=xyxy())
def test_a_box_overlaps_itself_wholly_unless_it_is_empty(boxes: Boxes):
    filled = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    np.testing.assert_array_equal(np.diag(iou_matrix(boxes, boxes)), filled.astype(float))


@given(first=xyxy(), second=xyxy(), shift=st.tuples(WHOLE, WHOLE))
def test_overlap_does_not_depend_on_the_place(first: Boxes, second: Boxes, shift: tuple[int, int]):
    moved = np.tile(np.array(shift, dtype=float), 2)
    np.testing.assert_allclose(iou_matrix(first + moved, second + moved), iou_matrix(first, second), atol=1e-12)


def test_overlap_of_known_boxes():
    first = np.array([[0, 0, 10, 10]])
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [30, 30, 40, 40]])
    np.testing.assert_allclose(iou_matrix(first, second), [[1, 1 / 3, 0, 0.04, 0]])


def test_no_boxes_are_of_shape_0_by_4():
    assert xywh_to_xyxy(np.array([])).shape == (0, 4)
    assert iou_matrix(np.empty((0, 4)), np.array([[0, 0, 1, 1]])).shape == (0, 1)


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 2, 4)])
def test_anything_but_boxes_is_refused(shape):
    with pytest.raises(ValueError, match=r"boxes must have shape \(n, 4\)"):
        xywh_to_xyxy(np.ones(shape))
