"""A fitted calibrator: what raw confidence means, as plain numbers that JSON holds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Method = Literal["constant", "platt", "isotonic"]

NEAREST_TO_CERTAIN = 1e-4
"""Raw confidence is taken no nearer to 0 or 1 than this before its logit, which has no end there."""

DECIMALS = 6
"""Calibrated figures are rounded to as many, so that the same input gives the same figure on every machine."""


@dataclass(frozen=True)
class Calibrator:
    """Raw confidence to the probability that the object is right; never falls as the confidence rises.

    Args:
        method: ``constant``: the same for every confidence; ``platt``: a logistic function of the logit of the
            confidence; ``isotonic``: straight lines between knots.
        parameters: ``value``; ``slope`` (not negative) and ``intercept``; or ``x`` and ``y``, lists of equal length,
            rising.
    """

    method: Method
    parameters: Mapping[str, Any]

    def apply(self, confidence: ArrayLike) -> NDArray[np.float64]:
        """Probabilities in 0–1, of the shape of the raw confidence."""
        raw = np.asarray(confidence, dtype=np.float64)
        if self.method == "constant":
            probability = np.full(raw.shape, self.parameters["value"])
        elif self.method == "platt":
            probability = 1 / (1 + np.exp(-(self.parameters["slope"] * logit(raw) + self.parameters["intercept"])))
        else:
            probability = np.interp(raw, self.parameters["x"], self.parameters["y"])
        return probability.round(DECIMALS)


def logit(confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the odds of a confidence."""
    inside = np.clip(confidence, NEAREST_TO_CERTAIN, 1 - NEAREST_TO_CERTAIN)
    return np.log(inside / (1 - inside))
