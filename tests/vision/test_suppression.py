import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.vision.suppression import RULES, choose_boxes

NUT, BOLT = 0, 1


def kept(*found):
    """Which of boxes to keep, by position; each is x1, y1, x2, y2, confidence, class, and whether it is a negative."""
    table = np.array([(*row, 0)[:7] for row in found], dtype=float).reshape(-1, 7)
    keep = choose_boxes(table[:, :4], table[:, 4], table[:, 5].astype(int), table[:, 6] > 0)
    return np.flatnonzero(keep).tolist()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([(0, 0, 9, 9, 0.3, NUT)], [0], id="one"),
        pytest.param([(0, 0, 100, 100, 0.8, NUT), (2, 0, 100, 98, 0.9, NUT)], [1], id="one object twice"),
        pytest.param([(0, 0, 100, 100, 0.8, NUT), (31, 0, 131, 100, 0.9, NUT)], [0, 1], id="neighbours"),
        pytest.param([(0, 0, 100, 100, 0.8, NUT), (2, 0, 100, 98, 0.9, BOLT)], [1], id="one object, two classes"),
        pytest.param([(0, 0, 100, 100, 0.8, NUT), (0, 0, 100, 80, 0.9, BOLT)], [0, 1], id="on one another"),
        pytest.param([(5, 0, 100, 100, 0.8, NUT), (0, 0, 95, 100, 0.8, BOLT)], [1], id="equally sure, further left"),
        pytest.param([(0, 0, 9, 9, 0.8, BOLT), (0, 0, 9, 9, 0.8, NUT)], [1], id="equally sure, earlier class"),
    ],
)
def test_one_object_has_one_box_the_surest(found, expected):
    assert kept(*found) == expected


LEFT, RIGHT, GROUP = (0, 0, 48, 100), (52, 0, 100, 100), (0, 0, 100, 100)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([(*GROUP, 0.9, NUT), (*LEFT, 0.8, NUT), (*RIGHT, 0.7, NUT)], [1, 2], id="a group and its members"),
        pytest.param([(*GROUP, 0.9, NUT), (*LEFT, 0.8, NUT)], [0, 1], id="one member is a part"),
        pytest.param([(*GROUP, 0.9, NUT), (*LEFT, 0.8, NUT), (*RIGHT, 0.7, BOLT)], [0, 1, 2], id="another class"),
        pytest.param([(*GROUP, 0.9, NUT), (*LEFT, 0.8, NUT), (*RIGHT, 0.4, NUT)], [0, 1, 2], id="an unsure member"),
        pytest.param(
            [(*GROUP, 0.9, NUT), (0, 0, 20, 100, 0.8, NUT), (80, 0, 100, 100, 0.8, NUT)],
            [0, 1, 2],
            id="two small things in a large one",
        ),
        pytest.param([(*GROUP, 0.9, NUT), (*LEFT, 0.8, NUT), (0, 2, 48, 99, 0.7, NUT)], [0, 1], id="one member twice"),
        pytest.param(
            [(*GROUP, 0.9, NUT), (0, 0, 60, 100, 0.8, NUT), (70, 0, 130, 100, 0.7, NUT)], [0, 1, 2], id="reaching out"
        ),
        pytest.param(
            [(0, 0, 200, 100, 0.9, NUT), (*GROUP, 0.9, NUT), (*LEFT, 0.8, NUT), (*RIGHT, 0.8, NUT)],
            [0, 2, 3],
            id="a group within a group is no member",
        ),
    ],
)
def test_a_box_around_several_of_its_class_goes(found, expected):
    assert kept(*found) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([(0, 0, 100, 100, 0.5, NUT), (0, 0, 100, 90, 0.6, NUT, 1)], [], id="explained better"),
        pytest.param([(0, 0, 100, 100, 0.6, NUT), (0, 0, 100, 90, 0.5, NUT, 1)], [0], id="explained worse"),
        pytest.param([(0, 0, 100, 100, 0.5, NUT), (0, 0, 100, 90, 0.5, NUT, 1)], [0], id="explained as well"),
        pytest.param([(0, 0, 100, 100, 0.5, NUT), (0, 0, 100, 40, 0.9, NUT, 1)], [0], id="elsewhere"),
        pytest.param([(0, 0, 100, 100, 0.5, BOLT), (0, 0, 100, 100, 0.9, NUT, 1)], [0], id="of another class"),
        pytest.param(
            [(0, 0, 100, 100, 0.5, NUT), (0, 0, 99, 99, 0.8, NUT), (0, 0, 100, 100, 0.6, NUT, 1)],
            [1],
            id="a surer box of the same object stays",
        ),
    ],
)
def test_a_box_that_a_negative_explains_better_goes(found, expected):
    assert kept(*found) == expected


def test_without_negatives_none_need_be_given():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30.0]])
    assert choose_boxes(boxes, np.array([0.5, 0.6]), np.array([0, 0])).all()


SIDE = st.integers(1, 12)
BOX = st.tuples(
    st.integers(0, 12),
    st.integers(0, 12),
    SIDE,
    SIDE,
    st.sampled_from([0.2, 0.5, 0.6, 0.9]),
    st.integers(0, 2),
    st.booleans(),
)
FOUND = st.lists(BOX, min_size=1, max_size=14)


def _arrays(found):
    table = np.array(found, dtype=float)
    boxes = np.column_stack([table[:, :2], table[:, :2] + table[:, 2:4]])
    return boxes, table[:, 4], table[:, 5].astype(int), table[:, 6] > 0


@settings(max_examples=150)
@given(FOUND, st.randoms())
def test_the_choice_does_not_depend_on_the_order(found, random):
    shuffled = random.sample(found, len(found))
    first, second = _arrays(found), _arrays(shuffled)
    keep, keep_shuffled = choose_boxes(*first), choose_boxes(*second)
    assert sorted(row for row, stays in zip(found, keep, strict=True) if stays) == sorted(
        row for row, stays in zip(shuffled, keep_shuffled, strict=True) if stays
    )


@settings(max_examples=150)
@given(FOUND)
def test_choosing_again_keeps_all_and_no_negative_is_kept(found):
    boxes, confidence, class_id, negative = _arrays(found)
    keep = choose_boxes(boxes, confidence, class_id, negative)
    assert not (keep & negative).any()
    again = keep | negative
    kept_again = choose_boxes(boxes[again], confidence[again], class_id[again], negative[again])
    assert kept_again.tolist() == keep[again].tolist()


@settings(max_examples=150)
@given(FOUND)
def test_the_surest_box_stays_unless_it_is_a_group_or_a_negative_is_surer(found):
    boxes, confidence, class_id, _ = _arrays(found)
    keep = choose_boxes(boxes, confidence, class_id)
    best = np.flatnonzero(confidence == confidence.max())
    if not keep[best].any():
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        inside = [
            index
            for index in np.flatnonzero((class_id == class_id[best[0]]) & (area < area[best].max()))
            if confidence[index] >= RULES.member_confidence * confidence.max()
        ]
        assert len(inside) >= 2
    assert keep.any()
