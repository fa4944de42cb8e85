"""What a detector's confidence is worth: calibration against reviews, its error, and thresholds that hold a precision.

A review is the raw confidence of an object and whether a person found the object right. Calibration needs
``MIN_REVIEWS`` of them: with fewer, the calibrated figure of a tenth of the range would rest on a handful.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.calibrator import Calibrator, Method, logit

FIT_VERSION = "1"
"""Changes when the same reviews would give another calibrator."""

MIN_REVIEWS = 50
MIN_GROUPS = 5
MIN_RARER = 10
"""Reviews of the rarer outcome below which no slope is fitted: ten events for each parameter (Peduzzi et al. 1996)."""

ISOTONIC_FROM = 1000
"""Reviews from which isotonic regression is the better one (Niculescu-Mizil & Caruana 2005)."""

BINS = 10
FOLDS = 5

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Fit:
    """A calibrator and how good it is.

    Attributes:
        calibrator: fitted on all reviews.
        out_of_fold: (n,), the probability of each review by a calibrator that was fitted without its group.
        ece_raw: expected calibration error of the raw confidence, 0–1.
        ece_calibrated: that of ``out_of_fold``.
    """

    calibrator: Calibrator
    out_of_fold: Floats
    ece_raw: float
    ece_calibrated: float


@dataclass(frozen=True)
class Bin:
    """The reviews whose confidence lies in one part of the range: their number, mean confidence and share right."""

    count: int
    mean_confidence: float
    share_right: float


def shortfall(reviews: int, groups: int) -> str:
    """What is missing for a calibration, such as ``12 of 50 reviews``; empty if nothing is.

    Args:
        reviews: how many there are.
        groups: how many different groups, such as images, they come from.
    """
    if reviews < MIN_REVIEWS:
        return f"{reviews} of {MIN_REVIEWS} reviews"
    return f"reviews of {groups} of {MIN_GROUPS} images" if groups < MIN_GROUPS else ""


def choose_method(correct: Bools) -> Method:
    """The method for these outcomes: isotonic for many, Platt's for few, and a constant where one outcome is rare.

    A detector that is nearly never wrong is calibrated by a constant: its reviews say how often it is right, but not
    how that changes with the confidence.
    """
    right = int(correct.sum())
    if min(right, len(correct) - right) < MIN_RARER:
        return "constant"
    return "isotonic" if len(correct) >= ISOTONIC_FROM else "platt"


def fit(confidence: Floats, correct: Bools, groups: Sequence[str]) -> Fit:
    """Fit a calibrator, and measure it by cross-validation in which no group is in two folds.

    Args:
        confidence: (n,) raw, 0–1; see `shortfall` for how many are needed.
        correct: (n,).
        groups: n keys; reviews of one group, such as an image, are alike.

    Raises:
        ValueError: there are too few reviews.
    """
    from sklearn.model_selection import GroupKFold

    missing = shortfall(len(confidence), len(set(groups)))
    if missing:
        raise ValueError(f"too few reviews to calibrate: {missing}")
    method = choose_method(correct)
    out_of_fold = np.empty(len(confidence))
    for train, test in GroupKFold(FOLDS).split(confidence, groups=groups):
        out_of_fold[test] = fit_calibrator(confidence[train], correct[train], method).apply(confidence[test])
    return Fit(
        calibrator=fit_calibrator(confidence, correct, method),
        out_of_fold=out_of_fold,
        ece_raw=expected_calibration_error(confidence, correct),
        ece_calibrated=expected_calibration_error(out_of_fold, correct),
    )


def fit_calibrator(confidence: Floats, correct: Bools, method: Method) -> Calibrator:
    """Fit by one method; a confidence that does not rise with being right gives a constant.

    No probability is nearer to 0 or 1 than Laplace's rule of succession allows for so many reviews.

    Args:
        confidence: (n,) raw, 0–1.
        correct: (n,).
        method: ``platt``: Platt (1999), with his smoothed targets, on the logit of the confidence; ``isotonic``:
            Zadrozny & Elkan (2002); ``constant``.
    """
    reviews, right = len(correct), int(correct.sum())
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        curve = IsotonicRegression().fit(confidence, correct.astype(np.float64))
        least = 1 / (reviews + 2)
        y = np.clip(curve.y_thresholds_, least, 1 - least)
        return Calibrator("isotonic", {"x": curve.X_thresholds_.tolist(), "y": y.tolist()})
    if method == "platt":
        slope, intercept = _platt(confidence, correct)
        if slope > 0:
            return Calibrator("platt", {"slope": slope, "intercept": intercept})
    return Calibrator("constant", {"value": (right + 1) / (reviews + 2)})


def _platt(confidence: Floats, correct: Bools) -> tuple[float, float]:
    """Slope and intercept of the logistic function whose cross-entropy to the smoothed targets is least."""
    from sklearn.linear_model import LogisticRegression

    right = int(correct.sum())
    targets = np.where(correct, (right + 1) / (right + 2), 1 / (len(correct) - right + 2))
    # A target between 0 and 1 is both outcomes, each with its weight.
    inputs = np.tile(logit(confidence), 2)[:, None]
    outcomes = np.repeat([1, 0], len(correct))
    model = LogisticRegression(C=np.inf).fit(inputs, outcomes, sample_weight=np.concatenate([targets, 1 - targets]))
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def reliability_bins(confidence: Floats, correct: Bools, bins: int = BINS) -> list[Bin]:
    """The reviews by parts of equal width of the range of confidence; parts without reviews are left out.

    Args:
        confidence: (n,) in 0–1, raw or calibrated.
        correct: (n,).
        bins: how many parts.
    """
    part = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(correct[inside].mean()))
        for inside in (part == index for index in range(bins))
        if inside.any()
    ]


def expected_calibration_error(confidence: Floats, correct: Bools, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): how far confidence and share right differ on average, 0–1.

    Args:
        confidence: (n,) in 0–1.
        correct: (n,).
        bins: parts of equal width.

    Raises:
        ValueError: there are no reviews.
    """
    if not len(confidence):
        raise ValueError("the calibration error needs at least one review")
    parts = reliability_bins(confidence, correct, bins)
    return sum(part.count * abs(part.mean_confidence - part.share_right) for part in parts) / len(confidence)
