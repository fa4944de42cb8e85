"""The reviews of a project by detector, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.fingerprints import fingerprint
from al_dagster.registry.reviews import Review
from al_dagster.vision.calibration import FIT_VERSION, shortfall


@dataclass(frozen=True)
class Reviewed:
    """The reviews of one detector, all of length n.

    Attributes:
        confidence: raw, 0–1.
        correct: whether the detector was right.
        groups: what each shares with those of the same source and its near-duplicates.
        content_hash: of the reviews and the way of fitting.
    """

    confidence: NDArray[np.float64]
    correct: NDArray[np.bool_]
    groups: list[str]
    content_hash: str

    @property
    def missing(self) -> str:
        """What a calibration still needs, in words; empty if nothing."""
        return shortfall(len(self.groups), len(set(self.groups)))


def by_detector(reviews: Sequence[Review], also: Sequence[str] = ()) -> dict[str, Reviewed]:
    """The reviews of each detector (``model_id@revision``) that has any, by its name.

    Args:
        reviews: of a project.
        also: detectors that are in the answer with or without reviews.
    """
    by_model: dict[str, list[Review]] = {model: [] for model in also}
    for review in reviews:
        by_model.setdefault(review.detection_model, []).append(review)
    return {
        model: Reviewed(
            confidence=np.array([review.confidence for review in mine], dtype=np.float64),
            correct=np.array([review.correct for review in mine], dtype=bool),
            groups=[review.group_key for review in mine],
            content_hash=fingerprint(
                version=FIT_VERSION,
                reviews=[[one.object_id, one.group_key, one.confidence, one.correct] for one in mine],
            ),
        )
        for model, mine in sorted(by_model.items())
    }
