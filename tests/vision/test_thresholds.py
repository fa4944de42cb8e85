"""Thresholds that hold a precision."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from al_dagster.vision.thresholds import (
    lowest_threshold,
    perfect_reviews_missing,
    precision_bound,
    reviews_needed,
)


@pytest.mark.parametrize(("correct", "reviews"), [(59, 59), (300, 312), (1, 7), (0, 5)])
def test_the_bound_is_that_of_clopper_and_pearson(correct, reviews):
    exact = binomtest(correct, reviews, alternative="greater").proportion_ci(0.95, "exact").low
    assert precision_bound(correct, reviews) == pytest.approx(exact)


@pytest.mark.parametrize(
    ("precision", "errors", "needed"), [(0.95, 0, 59), (0.95, 1, 93), (0.9, 0, 29), (0.99, 0, 299)]
)
def test_so_many_reviews_are_needed_and_one_fewer_is_not_enough(precision, errors, needed):
    assert reviews_needed(precision, errors) == needed
    assert precision_bound(needed - errors, needed) >= precision
    assert precision_bound(needed - 1 - errors, needed - 1) < precision


def test_a_detector_that_is_right_above_a_confidence_is_accepted_about_down_to_it():
    rng = np.random.default_rng(4)
    confidence = rng.uniform(0, 1, 2000)
    correct = (confidence > 0.6) | (rng.random(2000) < 0.3)
    found = lowest_threshold(confidence, correct, 0.95)
    assert 0.5 < found.confidence < 0.62
    above = confidence >= found.confidence
    assert (found.reviews, found.correct) == (above.sum(), correct[above].sum())
    assert found.bound == precision_bound(found.correct, found.reviews) >= 0.95


def test_the_threshold_does_not_depend_on_the_order_of_the_reviews():
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0, 1, 500).round(2)
    correct = rng.random(500) < 0.9 + 0.1 * confidence
    found = lowest_threshold(confidence, correct, 0.9)
    mixed = rng.permutation(500)
    assert found is not None
    assert lowest_threshold(confidence[mixed], correct[mixed], 0.9) == found


def test_a_higher_precision_never_has_a_lower_threshold():
    rng = np.random.default_rng(6)
    confidence = rng.uniform(0, 1, 1500)
    correct = rng.random(1500) < np.minimum(1, 0.7 + 0.5 * confidence)
    thresholds = [lowest_threshold(confidence, correct, precision) for precision in (0.85, 0.9, 0.95, 0.98)]
    cut = [found.confidence if found else 1.0 for found in thresholds]
    assert cut == sorted(cut)
    assert cut[0] < cut[-1]


def test_errors_among_the_surest_do_not_void_what_hundreds_of_reviews_show():
    correct = np.ones(400, dtype=bool)
    correct[[2, 9, 15, *range(30, 400, 10)]] = False
    found = lowest_threshold(np.linspace(1, 0, 400), correct, 0.8)
    assert found is not None
    assert found.reviews == 400


def test_reviews_of_equal_confidence_are_never_parted():
    confidence = np.repeat([0.9, 0.5], [100, 100])
    correct = np.repeat([True, False], [100, 100])
    found = lowest_threshold(confidence, correct, 0.95)
    assert (found.confidence, found.reviews) == (0.9, 100)


@pytest.mark.parametrize("reviews", [0, 1, 58])
def test_too_few_reviews_hold_nothing_however_good(reviews):
    confidence, correct = np.linspace(0.5, 1, reviews), np.ones(reviews, dtype=bool)
    assert lowest_threshold(confidence, correct, 0.95) is None
    assert perfect_reviews_missing(confidence, correct, 0.95) == 59 - reviews


@given(st.data(), st.sampled_from([0.8, 0.9, 0.95]))
@settings(max_examples=40)
def test_so_many_perfect_reviews_are_missing_and_one_fewer_is_not_enough(data, precision):
    outcomes = data.draw(st.lists(st.booleans(), max_size=120))
    confidence, correct = np.linspace(1, 0.1, len(outcomes)), np.array(outcomes, dtype=bool)
    assume(lowest_threshold(confidence, correct, precision) is None)
    missing = perfect_reviews_missing(confidence, correct, precision)

    def with_more(more):
        surer = np.concatenate([np.linspace(3, 2, more), confidence])
        return lowest_threshold(surer, np.concatenate([np.ones(more, dtype=bool), correct]), precision)

    assert missing >= 1
    assert with_more(missing) is not None
    assert with_more(missing - 1) is None


CURVES = {
    "just too bad everywhere": lambda confidence: np.full_like(confidence, 0.945),
    "good at the top only": lambda confidence: np.clip(0.6 + 0.45 * confidence, 0, 0.999),
    "a step": lambda confidence: np.where(confidence > 0.5, 0.995, 0.7),
}


@pytest.mark.slow
@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("reviews", [150, 600])
def test_choosing_the_threshold_by_the_reviews_misses_the_precision_in_at_most_one_of_twenty(curve, reviews):
    chance = CURVES[curve]
    grid = np.linspace(0, 1, 4001)
    sums = np.cumsum(chance(grid)[::-1])[::-1]
    true_precision = sums / np.arange(len(grid), 0, -1)
    missed = 0
    rng = np.random.default_rng(7)
    trials = 250
    for _ in range(trials):
        confidence = rng.uniform(0, 1, reviews)
        found = lowest_threshold(confidence, rng.random(reviews) < chance(confidence), 0.95)
        if found is not None:
            missed += np.interp(found.confidence, grid, true_precision) < 0.95
    # Three standard deviations of so many trials above one in twenty.
    assert missed / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
