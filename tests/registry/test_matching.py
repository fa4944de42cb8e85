"""Which new box is which standing object."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.core.geometry import iou_matrix, xywh_to_xyxy
from al_dagster.registry.matching import MIN_IOU, NewBox, StandingObject, decide_frame, match_boxes

BOX = (100.0, 100.0, 50.0, 50.0)
NEAR = (105.0, 100.0, 50.0, 50.0)  # IoU 0.82 with BOX
HALF = (125.0, 100.0, 50.0, 50.0)  # IoU 0.33 with BOX
FAR = (300.0, 300.0, 50.0, 50.0)

numbers = st.integers(0, 30).map(float)
boxes = st.tuples(numbers, numbers, st.integers(1, 20).map(float), st.integers(1, 20).map(float))
categories = st.sampled_from(["nut", "bolt"])


def standing(name, category="nut", box=BOX, detection=None, human=False, deleted=False, said="same", at=None):
    """A standing object; ``said`` and ``at`` are what the machine had said before a person corrected it."""
    machine = category if said == "same" else said
    return StandingObject(name, detection or name, category, machine, at or box, box, human or deleted, deleted)


def iou(first, second):
    return float(iou_matrix(xywh_to_xyxy(np.array([first])), xywh_to_xyxy(np.array([second])))[0, 0])


@settings(max_examples=150)
@given(
    first=st.lists(st.tuples(categories, boxes), max_size=8), second=st.lists(st.tuples(categories, boxes), max_size=8)
)
def test_pairs_are_one_to_one_within_a_category_and_none_is_left_out(first, second):
    pairs = match_boxes(first, second)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    free_first = set(range(len(first))) - {i for i, _ in pairs}
    free_second = set(range(len(second))) - {j for _, j in pairs}
    for i, j in pairs:
        assert first[i][0] == second[j][0]
        assert iou(first[i][1], second[j][1]) >= MIN_IOU
    for i in free_first:
        for j in free_second:
            assert first[i][0] != second[j][0] or iou(first[i][1], second[j][1]) < MIN_IOU
    assert match_boxes(first, second) == pairs


@settings(max_examples=60)
@given(items=st.lists(st.tuples(categories, boxes), max_size=8, unique=True))
def test_a_list_matches_itself(items):
    assert match_boxes(items, items) == [(i, i) for i in range(len(items))]


def test_the_greatest_overlap_wins():
    assert match_boxes([("nut", NEAR), ("nut", BOX)], [("nut", BOX)]) == [(1, 0)]


def test_nothing_matches_nothing():
    assert match_boxes([], [("nut", BOX)]) == match_boxes([("nut", BOX)], []) == []


@pytest.mark.parametrize(
    ("new", "stands", "outcome"),
    [
        (NewBox("a", "nut", BOX), standing("a"), "matched"),
        (NewBox("a", "bolt", FAR), standing("a"), "matched"),
        (NewBox("a", "bolt", FAR), standing("z", detection="a"), "matched"),
        (NewBox("b", "nut", NEAR), standing("a"), "matched"),
        (NewBox("b", "nut", HALF), standing("a"), "inserted"),
        (NewBox("b", "bolt", NEAR), standing("a"), "inserted"),
        (NewBox("a", "nut", BOX), standing("a", human=True), "kept"),
        (NewBox("a", "nut", FAR), standing("a", human=True), "kept"),
        (NewBox("a", "bolt", BOX), standing("a", human=True), "conflict"),
        (NewBox("a", "bolt", FAR), standing("a", human=True), "conflict"),
        (NewBox("a", "bolt", BOX), standing("z", detection="a", human=True), "conflict"),
        (NewBox("a", "nut", BOX), standing("a", "washer", human=True, said="nut"), "kept"),
        (NewBox("a", "washer", BOX), standing("a", "washer", human=True, said="nut"), "kept"),
        (NewBox("a", "bolt", BOX), standing("a", "washer", human=True, said="nut"), "conflict"),
        (NewBox("a", "nut", BOX), standing("a", "washer", human=True, said=None), "conflict"),
        (NewBox("a", "washer", BOX), standing("a", "washer", human=True, said=None), "kept"),
        (NewBox("b", "nut", NEAR), standing("a", "washer", human=True, said="nut"), "kept"),
        (NewBox("b", "bolt", NEAR), standing("a", "washer", human=True, said="nut"), "conflict"),
        (NewBox("b", "nut", HALF), standing("a", "washer", human=True, said="nut"), "inserted"),
        (NewBox("a", "nut", FAR), standing("a", "washer", human=True, said="nut", at=FAR), "kept"),
        (NewBox("b", "nut", NEAR), standing("a", "washer", human=True, said="nut", at=FAR), "conflict"),
        (NewBox("b", "nut", NEAR), standing("a", human=True), "kept"),
        (NewBox("b", "nut", HALF), standing("a", human=True), "inserted"),
        (NewBox("b", "bolt", NEAR), standing("a", human=True), "conflict"),
        (NewBox("b", "bolt", HALF), standing("a", human=True), "inserted"),
        (NewBox("a", "bolt", FAR), standing("a", deleted=True), "suppressed"),
        (NewBox("b", "nut", NEAR), standing("a", deleted=True), "suppressed"),
        (NewBox("b", "bolt", NEAR), standing("a", deleted=True), "inserted"),
        (NewBox("b", "nut", NEAR), standing("a", "washer", deleted=True, said="nut"), "suppressed"),
        (NewBox("b", "bolt", NEAR), standing("a", "washer", deleted=True, said="nut"), "inserted"),
        (NewBox("b", "nut", NEAR), standing("a", "washer", deleted=True, said="nut", at=FAR), "inserted"),
    ],
)
def test_what_becomes_of_one_box_beside_one_object(new, stands, outcome):
    decision = decide_frame([new], [stands])
    assert decision.outcomes == [outcome]
    assert decision.standing == [None if outcome == "inserted" else 0]
    unaccounted = outcome == "inserted" and not stands.human
    assert decision.superseded == ([0] if unaccounted else [])


def test_a_conflict_says_how_much_it_overlaps():
    decision = decide_frame([NewBox("b", "bolt", NEAR)], [standing("a", human=True)])
    assert decision.conflict_ious == {0: pytest.approx(45 / 55)}
    assert decide_frame([NewBox("a", "bolt", FAR)], [standing("a", human=True)]).conflict_ious == {0: 0}


def test_an_id_goes_before_an_overlap():
    new = [NewBox("b", "nut", BOX), NewBox("a", "nut", NEAR)]
    assert decide_frame(new, [standing("a")]).outcomes == ["inserted", "matched"]


def test_an_object_id_goes_before_the_id_of_its_newest_detection():
    decision = decide_frame([NewBox("b", "nut", FAR), NewBox("a", "nut", FAR)], [standing("a", detection="b")])
    assert decision.standing == [None, 0]


def test_two_boxes_on_one_object_of_a_person_add_nothing():
    new = [NewBox("b", "nut", NEAR), NewBox("c", "nut", BOX)]
    assert decide_frame(new, [standing("a", human=True)]).outcomes == ["kept", "kept"]


def test_an_active_object_goes_before_a_deleted_one():
    stands = [standing("a", deleted=True, box=NEAR), standing("b", box=BOX)]
    decision = decide_frame([NewBox("c", "nut", NEAR)], stands)
    assert (decision.outcomes, decision.standing, decision.superseded) == (["matched"], [1], [])


def test_agreement_goes_before_contradiction():
    stands = [standing("a", "bolt", human=True), standing("b", "nut", NEAR, human=True)]
    decision = decide_frame([NewBox("c", "nut", BOX), NewBox("d", "nut", BOX)], stands)
    assert (decision.outcomes, decision.conflict_ious) == (["kept", "kept"], {})


def test_agreement_goes_before_what_the_machine_said_before():
    stands = [standing("a", "bolt", human=True, said="nut"), standing("b", "nut", NEAR, human=True)]
    decision = decide_frame([NewBox("c", "nut", BOX), NewBox("d", "nut", BOX)], stands)
    assert (decision.outcomes, decision.standing) == (["kept", "kept"], [1, 1])
