import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_dagster.demo.scoring import Counts, Label, score_labels

sizes = st.floats(1, 80, allow_nan=False)
places = st.floats(0, 400, allow_nan=False)
labels = st.builds(
    Label,
    image=st.sampled_from(["a.jpg", "b.jpg"]),
    label=st.sampled_from(["nut", "bolt"]),
    box=st.tuples(places, places, sizes, sizes),
)
label_lists = st.lists(labels, max_size=8)

NUT = Label("a.jpg", "nut", (10, 10, 20, 20))


@given(label_lists)
def test_perfect_labels_score_1(truth: list[Label]) -> None:
    score = score_labels(truth, truth)
    assert score.overall == Counts(len(truth), len(truth), len(truth))
    assert score.overall.precision == score.overall.recall == 1


@given(label_lists, label_lists, st.integers())
def test_order_does_not_matter(predictions: list[Label], truth: list[Label], seed: int) -> None:
    shuffled = random.Random(seed)
    again = score_labels(shuffled.sample(predictions, len(predictions)), shuffled.sample(truth, len(truth)))
    assert score_labels(predictions, truth) == again


@given(label_lists, label_lists)
def test_no_object_and_no_label_is_counted_twice(predictions: list[Label], truth: list[Label]) -> None:
    score = score_labels(predictions, truth)
    assert score.overall.matched <= min(len(predictions), len(truth))
    assert score.overall.predicted == len(predictions)
    assert score.overall.true == len(truth)
    assert sum(counts.matched for counts in score.per_class.values()) == score.overall.matched


@given(st.lists(labels, min_size=1, max_size=6))
def test_a_second_label_on_an_object_is_wrong(truth: list[Label]) -> None:
    score = score_labels([*truth, truth[0]], truth)
    assert score.overall == Counts(len(truth), len(truth) + 1, len(truth))


@given(label_lists, label_lists)
def test_a_stricter_overlap_never_matches_more(predictions: list[Label], truth: list[Label]) -> None:
    loose, strict = score_labels(predictions, truth, iou=0.3), score_labels(predictions, truth, iou=0.7)
    assert strict.overall.matched <= loose.overall.matched


def test_a_wrong_class_is_a_wrong_label_and_a_missed_object() -> None:
    score = score_labels([Label("a.jpg", "bolt", NUT.box)], [NUT])
    assert score.per_class == {"bolt": Counts(0, 1, 0), "nut": Counts(0, 0, 1)}
    assert score.overall.precision == score.overall.recall == 0


def test_a_label_in_another_image_does_not_count() -> None:
    assert score_labels([Label("b.jpg", "nut", NUT.box)], [NUT]).overall == Counts(0, 1, 1)


def test_boxes_match_from_the_given_overlap_on() -> None:
    half = Label("a.jpg", "nut", (10, 10, 20, 10))
    assert score_labels([half], [NUT], iou=0.5).overall.matched == 1
    assert score_labels([half], [NUT], iou=0.51).overall.matched == 0


def test_the_pairing_with_the_most_pairs_is_counted() -> None:
    """The label in the middle overlaps both objects; the other label overlaps only the nearer one."""
    truth = [Label("a.jpg", "nut", (0, 0, 20, 20)), Label("a.jpg", "nut", (8, 0, 20, 20))]
    middle, left = Label("a.jpg", "nut", (3, 0, 20, 20)), Label("a.jpg", "nut", (-5, 0, 20, 20))
    assert score_labels([middle, left], truth).overall.matched == 2


def test_an_overlap_that_any_boxes_have_is_refused() -> None:
    with pytest.raises(ValueError, match="iou must be"):
        score_labels([], [], iou=0)
