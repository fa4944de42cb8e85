"""What a fitted calibrator makes of raw confidence."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from al_dagster.core.calibrator import Calibrator

UNIT = st.floats(0, 1)
RISING = st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=6, unique_by=lambda knot: knot[0])
CALIBRATORS = st.one_of(
    UNIT.map(lambda value: Calibrator("constant", {"value": value})),
    st.tuples(st.floats(0, 50), st.floats(-50, 50)).map(
        lambda line: Calibrator("platt", {"slope": line[0], "intercept": line[1]})
    ),
    RISING.map(
        lambda knots: Calibrator(
            "isotonic", {"x": sorted(knot[0] for knot in knots), "y": sorted(knot[1] for knot in knots)}
        )
    ),
)


@given(CALIBRATORS, st.lists(UNIT, min_size=1, max_size=20))
def test_a_probability_lies_in_the_unit_interval_and_never_falls_as_the_confidence_rises(calibrator, confidence):
    probability = calibrator.apply(sorted(confidence))
    assert ((probability >= 0) & (probability <= 1)).all()
    assert (np.diff(probability) >= 0).all()


@given(CALIBRATORS, st.lists(UNIT, min_size=1, max_size=20))
def test_its_parameters_pass_through_json_and_one_figure_equals_the_same_among_many(calibrator, confidence):
    again = Calibrator(calibrator.method, json.loads(json.dumps(calibrator.parameters)))
    assert again.apply(confidence).tolist() == [float(calibrator.apply(value)) for value in confidence]


def test_platt_is_the_logistic_function_of_the_log_odds():
    calibrator = Calibrator("platt", {"slope": 2.0, "intercept": -1.0})
    odds = (0.8 / 0.2) ** 2 * np.exp(-1)
    assert float(calibrator.apply(0.8)) == pytest.approx(odds / (1 + odds), abs=1e-6)


def test_isotonic_is_a_line_between_its_knots_and_flat_beyond_them():
    calibrator = Calibrator("isotonic", {"x": [0.4, 0.6], "y": [0.1, 0.9]})
    assert calibrator.apply([0.0, 0.45, 1.0]).tolist() == [0.1, 0.3, 0.9]
