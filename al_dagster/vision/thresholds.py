"""Thresholds above which a stated precision holds: exact bounds on reviewed objects, and the order of testing them."""

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
TOLERABLE_ERRORS = (0, 2, 5, 10, 20, 50, 100)
"""A sequence of tests begins where so many errors are tolerable, as far as there are reviews enough."""

SHORTEST, GROWTH = 10, 1.1


@dataclass(frozen=True)
class Threshold:
    """The lowest confidence above which the precision is sure to hold.

    Attributes:
        confidence: objects at least so sure, raw.
        reviews: reviewed objects among them.
        correct: how many of those were right.
        bound: lower confidence bound of their precision, 0–1.
    """

    confidence: float
    reviews: int
    correct: int
    bound: float


def precision_bound(correct: int, reviews: int, level: float = LEVEL) -> float:
    """One-sided lower confidence bound of a share (Clopper & Pearson 1934); 0 where nothing was right.

    Args:
        correct: how many were right.
        reviews: of how many.
        level: probability with which the true share lies above.
    """
    from scipy.stats import beta

    return float(beta.ppf(1 - level, correct, reviews - correct + 1)) if correct else 0.0


def reviews_needed(precision: float, errors: int = 0, level: float = LEVEL) -> int:
    """The least number of reviews, so many of them wrong, whose bound reaches a precision.

    Args:
        precision: 0–1, both excluded.
        errors: how many of the reviews are wrong.
        level: of the bound.
    """
    least, most = errors, errors + 1
    while precision_bound(most - errors, most, level) < precision:
        least, most = most, most * 2
    while most - least > 1:
        middle = (least + most) // 2
        if precision_bound(middle - errors, middle, level) >= precision:
            most = middle
        else:
            least = middle
    return most


def lowest_threshold(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], precision: float, level: float = LEVEL
) -> Threshold | None:
    """The lowest threshold that holds a precision, found so that choosing it does not void its bound.

    Thresholds are tested from the top down, in an order that the confidences alone fix: fixed-sequence testing
    (Angelopoulos et al. 2021, Learn then Test). A test that fails ends a sequence. There are several, since the
    shortest list that can pass must be perfect, and a few early errors would end the only one: the others start where
    more errors are tolerable. They share the allowed risk, and one that reaches the start of the next joins it with its
    part (the fallback procedure, Wiens 2003). So the chosen threshold has the stated precision with the probability
    ``level``, as if it had been the only one tested.

    That holds for objects like the reviewed ones, each reviewed independently: a reviewer who picked the easy ones
    makes it too good, and so do many objects of few images, which tend to be right or wrong together.

    Args:
        confidence: (n,) raw, of the reviewed objects.
        correct: (n,), whether each was right.
        precision: 0–1, both excluded.
        level: of the bound.

    Returns:
        The threshold, or None if every sequence fails at its start or there are too few reviews to test one.
    """
    best_first = np.argsort(-confidence, kind="stable")
    sorted_confidence, right = confidence[best_first], np.cumsum(correct[best_first])
    found, risk = None, 0.0
    for count, own in _sequence(sorted_confidence, precision, 1 - level):
        risk += own
        if not risk:
            continue
        if precision_bound(int(right[count - 1]), count, 1 - risk) < precision:
            risk = 0.0
            continue
        bound = precision_bound(int(right[count - 1]), count, level)
        found = Threshold(float(sorted_confidence[count - 1]), count, int(right[count - 1]), bound)
    return found


def _sequence(sorted_confidence: NDArray[np.float64], precision: float, risk: float) -> list[tuple[int, float]]:
    """How many reviews lie at or above each threshold, from the top, and the risk that a sequence starts there with.

    The numbers grow by a tenth, the same for all precisions; equal confidences are never parted.
    """
    total = len(sorted_confidence)
    starts, share = _starts(total, precision, risk)
    aims = [SHORTEST]
    while aims[-1] < total:
        aims.append(math.ceil(aims[-1] * GROWTH))
    aims = [min(aim, total) for aim in aims] if total else []
    lowest = sorted_confidence[np.array(aims, dtype=int) - 1]
    counts = np.searchsorted(-sorted_confidence, -lowest, side="right")
    sequence = dict.fromkeys(map(int, counts), 0.0)
    for start in starts:
        first = next((count for count in sequence if count >= start), None)
        if first is not None:
            sequence[first] += share
    return list(sequence.items())


def _starts(total: int, precision: float, risk: float) -> tuple[list[int], float]:
    """How many reviews the first test of each sequence takes, and the risk that each sequence starts with."""
    for sequences in range(len(TOLERABLE_ERRORS), 1, -1):
        share = risk / sequences
        if reviews_needed(precision, TOLERABLE_ERRORS[sequences - 1], 1 - share) <= total:
            return [reviews_needed(precision, errors, 1 - share) for errors in TOLERABLE_ERRORS[:sequences]], share
    return [reviews_needed(precision, 0, 1 - risk)], risk


def perfect_reviews_missing(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], precision: float, level: float = LEVEL
) -> int:
    """How many further reviews, all right and surer than the others, let a threshold hold the precision.

    Args:
        confidence: (n,) raw, of the reviewed objects, which hold it nowhere yet.
        correct: (n,), whether each was right.
        precision: 0–1, both excluded.
        level: of the bound.
    """

    def holds(more: int) -> bool:
        surer = np.concatenate([1 + np.arange(more, 0, -1.0), confidence])
        right = np.concatenate([np.ones(more, dtype=bool), correct])
        return lowest_threshold(surer, right, precision, level) is not None

    # A perfect list so long is tested first, whatever comes after it.
    enough = math.ceil(GROWTH * reviews_needed(precision, 0, 1 - (1 - level) / len(TOLERABLE_ERRORS)))
    return 1 + bisect_left(range(1, enough), True, key=holds)
