from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.core.project import UNKNOWN
from al_dagster.vision.overlaps import resolve_overlaps
from al_dagster.vision.protocols import Classification, Mask


def _block(x, y, width, height=20):
    """A mask that fills its box, and the box."""
    return Mask(np.ones((height, width), bool), x, y, 1.0), np.array([x, y, x + width, y + height], dtype=float)


def _labels(proposals, results, **options):
    masks, boxes = zip(*proposals, strict=True)
    return [result.label for result in resolve_overlaps(np.array(boxes), masks, results, **options)]


def test_of_two_readings_of_the_same_pixels_the_better_fitting_stays():
    mask, box = _block(0, 0, 20)
    wide = np.array([0, 0, 40, 40])
    far = _block(60, 60, 20)
    results = [Classification("a", 0.8, 0.1), Classification("b", 0.85, 0.1), Classification("a", 0.7, 0.1)]
    assert _labels([(mask, box), (mask, wide), far], results) == ["a", UNKNOWN, "a"]


def test_scores_and_margins_of_those_not_chosen_are_kept():
    mask, box = _block(0, 0, 20)
    results = [Classification("a", 0.9, 0.2), Classification("b", 0.8, 0.1)]
    chosen = resolve_overlaps(np.array([box, box]), [mask, mask], results)
    assert chosen[1] == Classification(UNKNOWN, 0.8, 0.1)


def test_an_unknown_reading_does_not_push_a_known_one_aside():
    results = [Classification(UNKNOWN, 0.9, 0.5), Classification("a", 0.7, 0.1)]
    assert _labels([_block(0, 0, 20)] * 2, results) == [UNKNOWN, "a"]


def test_a_whole_is_preferred_to_its_halves_when_all_fit_alike():
    proposals = [_block(0, 0, 30), _block(0, 0, 60), _block(30, 0, 30)]
    assert _labels(proposals, [Classification("a", 0.85, 0.1)] * 3) == [UNKNOWN, "a", UNKNOWN]


def test_parts_are_preferred_to_a_whole_that_fits_badly():
    proposals = [_block(0, 0, 30), _block(0, 0, 60), _block(30, 0, 30)]
    results = [Classification("a", 0.9, 0.1), Classification("b", 0.68, 0.05), Classification("a", 0.88, 0.1)]
    assert _labels(proposals, results) == ["a", UNKNOWN, "a"]


def test_what_is_seen_through_a_hole_is_no_object_of_its_own():
    rows, columns = np.indices((41, 41))
    distance = np.hypot(rows - 20, columns - 20)
    ring, seen_through = Mask((distance <= 20) & (distance > 10), 5, 5, 1.0), Mask(distance <= 10, 5, 5, 1.0)
    boxes = [np.array([5, 5, 46, 46.0]), np.array([15, 15, 36, 36.0])]
    results = [Classification("ring", 0.85, 0.1), Classification("disc", 0.9, 0.1)]
    assert _labels(list(zip((ring, seen_through), boxes, strict=True)), results) == ["ring", UNKNOWN]


def test_the_set_is_worth_the_most_and_not_only_its_first_member():
    """The middle one is worth more than either neighbour and less than both."""
    proposals = [_block(0, 0, 40), _block(25, 0, 45), _block(55, 0, 40)]
    results = [Classification("a", 0.85, 0.1)] * 3
    assert _labels(proposals, results, overlap=0.3) == ["a", UNKNOWN, "a"]


@pytest.mark.parametrize(("overlap", "second"), [(0.4, UNKNOWN), (0.6, "a")])
def test_as_much_of_the_smaller_as_is_allowed_may_be_shared(overlap, second):
    proposals = [_block(0, 0, 40), _block(30, 0, 20)]
    assert _labels(proposals, [Classification("a", 0.9, 0.1)] * 2, overlap=overlap) == ["a", second]


def test_a_mask_in_which_nothing_was_found_is_no_object_whatever_it_looks_like():
    mask, box = _block(0, 0, 20)
    guessed = replace(mask, score=0.05)
    assert _labels([(guessed, box)], [Classification("a", 0.95, 0.3)]) == [UNKNOWN]
    assert _labels([(mask, box)], [Classification("a", 0.95, 0.3)]) == ["a"]


def test_no_proposals_need_no_choice():
    assert resolve_overlaps(np.empty((0, 4)), [], []) == []


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(5, 40), st.floats(0.3, 1.0)),
        min_size=1,
        max_size=9,
    )
)
def test_no_two_of_those_chosen_share_more_than_is_allowed_and_none_could_be_added(found):
    proposals = [_block(x, y, side, side) for x, y, side, _ in found]
    results = [Classification("a", score, 0.1) for *_, score in found]
    labels = _labels(proposals, results)

    def shared(one, other):
        first, second = (mask.full(120, 120) for mask in (proposals[one][0], proposals[other][0]))
        return (first & second).sum() / min(first.sum(), second.sum())

    chosen = [index for index, label in enumerate(labels) if label != UNKNOWN]
    assert all(shared(one, other) <= 0.5 for one in chosen for other in chosen if one < other)
    for index in set(range(len(found))) - set(chosen):
        if found[index][3] > 0.6:
            assert any(shared(index, other) > 0.5 for other in chosen)
