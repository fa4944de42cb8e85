"""Fitting calibrators to reviews, and the error of a confidence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.vision.calibration import (
    ISOTONIC_FROM,
    MIN_RARER,
    MIN_REVIEWS,
    choose_method,
    expected_calibration_error,
    fit,
    fit_calibrator,
    reliability_bins,
    shortfall,
)

REVIEWS = st.integers(2, 80).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(0, 1), min_size=n, max_size=n), st.lists(st.booleans(), min_size=n, max_size=n)
    )
)


def draw(count: int, chance, seed: int = 0):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0, 1, count)
    return confidence, rng.random(count) < chance(confidence)


def images(count: int, each: int = 5) -> list[str]:
    return [f"image {index // each}" for index in range(count)]


@settings(max_examples=60)
@given(REVIEWS, st.sampled_from(["constant", "platt", "isotonic"]))
def test_whatever_the_reviews_a_calibrator_is_monotone_and_never_quite_certain(reviews, method):
    confidence, correct = np.array(reviews[0]), np.array(reviews[1])
    calibrator = fit_calibrator(confidence, correct, method)
    probability = calibrator.apply(np.linspace(0, 1, 101))
    assert (np.diff(probability) >= 0).all()
    assert ((probability >= 0) & (probability <= 1)).all()
    if calibrator.method != "platt":
        least = 1 / (len(correct) + 2)
        assert least - 1e-6 <= probability[0] <= probability[-1] <= 1 - least + 1e-6


@given(REVIEWS, st.integers(1, 20))
def test_the_calibration_error_is_a_share(reviews, bins):
    assert 0 <= expected_calibration_error(np.array(reviews[0]), np.array(reviews[1]), bins) <= 1


def test_the_calibration_error_is_the_mean_gap_weighted_by_reviews():
    confidence = np.array([0.91, 0.95, 0.99, 0.15, 1.0])
    correct = np.array([True, False, True, False, True])
    first, last = reliability_bins(confidence, correct)
    assert (first.count, last.count) == (1, 4)
    assert last.share_right == 0.75
    gap = 1 * 0.15 + 4 * abs((0.91 + 0.95 + 0.99 + 1.0) / 4 - 0.75)
    assert expected_calibration_error(confidence, correct) == pytest.approx(gap / 5)


def test_a_confidence_that_is_always_right_about_itself_has_no_error():
    assert expected_calibration_error(np.array([1.0, 1.0, 0.0]), np.array([True, True, False])) == 0


def test_an_error_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one review"):
        expected_calibration_error(np.array([]), np.array([], dtype=bool))


def test_platt_finds_the_logistic_function_that_drew_the_outcomes():
    def chance(confidence):
        return 1 / (1 + np.exp(-(1.5 * np.log(confidence / (1 - confidence)) - 0.7)))

    calibrator = fit_calibrator(*draw(20_000, chance), "platt")
    assert calibrator.parameters["slope"] == pytest.approx(1.5, abs=0.08)
    assert calibrator.parameters["intercept"] == pytest.approx(-0.7, abs=0.06)


@pytest.mark.parametrize("count", [300, 2000])
def test_calibration_lowers_the_error_of_an_overconfident_detector_on_images_it_has_not_seen(count):
    confidence, correct = draw(count, lambda confidence: confidence**3)
    found = fit(confidence, correct, images(count))
    assert found.calibrator.method == ("platt" if count < ISOTONIC_FROM else "isotonic")
    assert found.ece_raw > 0.15
    assert found.ece_calibrated < found.ece_raw / 2.5


def test_no_review_has_a_part_in_its_own_out_of_fold_figure_nor_have_those_of_its_image():
    confidence, correct = draw(100, lambda confidence: confidence)
    groups = images(100)
    before = fit(confidence, correct, groups).out_of_fold
    other = correct.copy()
    other[:5] = ~other[:5]
    after = fit(confidence, other, groups).out_of_fold
    assert (before[:5] == after[:5]).all()
    assert (before != after).any()


def test_a_confidence_that_falls_with_being_right_is_worth_no_more_than_its_mean():
    calibrator = fit_calibrator(*draw(200, lambda confidence: 1 - confidence), "platt")
    assert calibrator.method == "constant"
    assert calibrator.parameters["value"] == pytest.approx(0.5, abs=0.1)


def test_a_detector_that_was_never_wrong_is_right_as_often_as_so_many_reviews_can_say():
    found = fit(np.linspace(0.3, 1, 98), np.ones(98, dtype=bool), images(98))
    assert (found.calibrator.method, found.calibrator.parameters) == ("constant", {"value": 0.99})


def test_the_method_follows_the_number_of_reviews_and_of_the_rarer_outcome():
    def outcomes(right: int, wrong: int):
        return np.array([True] * right + [False] * wrong)

    assert choose_method(outcomes(200, MIN_RARER - 1)) == "constant"
    assert choose_method(outcomes(MIN_RARER - 1, 200)) == "constant"
    assert choose_method(outcomes(200, MIN_RARER)) == "platt"
    assert choose_method(outcomes(ISOTONIC_FROM - 100, 100)) == "isotonic"


def test_too_few_reviews_or_images_are_no_calibration():
    assert shortfall(MIN_REVIEWS, 5) == ""
    assert shortfall(12, 5) == "12 of 50 reviews"
    assert shortfall(60, 4) == "reviews of 4 of 5 images"
    confidence, correct = draw(60, lambda confidence: confidence)
    with pytest.raises(ValueError, match="reviews of 1 of 5 images"):
        fit(confidence, correct, ["the only image"] * 60)
