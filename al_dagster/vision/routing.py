"""A detector made of two: one that is asked by name and one that gives class-agnostic proposals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from al_dagster.core.project import PROPOSAL
from al_dagster.vision.protocols import P_BOX, P_LABEL, Detector, Image, Prompt

if TYPE_CHECKING:
    import supervision as sv


class RoutedDetector:
    """Sends proposals to one detector and every other prompt to the other.

    Args:
        named: is asked for classes by name.
        proposer: is asked for ``PROPOSAL``.
    """

    def __init__(self, named: Detector, proposer: Detector) -> None:
        self._named, self._proposer = named, proposer
        self.model_id = f"{named.model_id}+{proposer.model_id}"
        self.revision = f"{named.revision}+{proposer.revision}"
        self.images_per_call = max(named.images_per_call, proposer.images_per_call)
        # What each finds is cut off by a limit of its own, before the two are put together.
        self.least_confidence = 0.0

    def load(self) -> None:
        """Load both."""
        self._named.load()
        self._proposer.load()

    def unload(self) -> None:
        """Unload both."""
        self._named.unload()
        self._proposer.unload()

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Check the prompts of each.

        Raises:
            UserError: one does not know a prompt.
        """
        for detector, indexes in self._routes(prompts):
            detector.check_prompts([prompts[index] for index in indexes])

    def detect(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> "list[sv.Detections]":
        """What both find, the named classes first; a part of the confidence that a detector does not give is NaN.

        Args:
            images: (height, width, 3), uint8, each.
            prompts: the classes, and ``PROPOSAL``.
        """
        found = [
            [
                _renumbered(detections, indexes, detector.least_confidence)
                for detections in detector.detect(images, [prompts[index] for index in indexes])
            ]
            for detector, indexes in self._routes(prompts)
        ]
        return [_merged(parts) for parts in zip(*found, strict=True)]

    def _routes(self, prompts: Sequence[Prompt]) -> list[tuple[Detector, list[int]]]:
        """Each detector that is asked for something, with the indexes of its prompts."""
        proposed = [index for index, prompt in enumerate(prompts) if prompt.label == PROPOSAL]
        named = [index for index in range(len(prompts)) if index not in proposed]
        return [
            (detector, indexes) for detector, indexes in ((self._named, named), (self._proposer, proposed)) if indexes
        ]


def _renumbered(detections: "sv.Detections", indexes: Sequence[int], least: float) -> "sv.Detections":
    """The boxes that are sure enough, with the class ids of all prompts."""
    import supervision as sv

    confidence = np.asarray(detections.confidence, dtype=np.float32)
    sure = confidence >= least
    missing = np.full(len(detections), np.nan)
    return sv.Detections(
        xyxy=np.asarray(detections.xyxy, dtype=np.float32)[sure],
        confidence=confidence[sure],
        class_id=np.asarray(indexes, dtype=int)[np.asarray(detections.class_id, dtype=int)][sure],
        data={key: np.asarray(detections.data.get(key, missing), dtype=float)[sure] for key in (P_LABEL, P_BOX)},
    )


def _merged(parts: "Sequence[sv.Detections]") -> "sv.Detections":
    import supervision as sv

    return sv.Detections(
        xyxy=np.concatenate([part.xyxy for part in parts]),
        confidence=np.concatenate([part.confidence for part in parts]),
        class_id=np.concatenate([part.class_id for part in parts]),
        data={key: np.concatenate([part.data[key] for part in parts]) for key in (P_LABEL, P_BOX)},
    )
