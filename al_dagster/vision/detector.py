"""The embedded detector: OpenCV's trained detectors by class name, and region proposals."""

from collections.abc import Callable, Sequence
from threading import local

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.core.geometry import clip_xyxy
from al_dagster.core.project import PROPOSAL
from al_dagster.vision import cascades, proposals
from al_dagster.vision.parallel import IMAGES_PER_CALL, map_images
from al_dagster.vision.protocols import Image, Prompt
from al_dagster.vision.revisions import code_revision

NMS_IOU = 0.5
LEAST_CONFIDENCE = 0.05
FINDERS: dict[str, Callable[[], Callable[[Image], cascades.Found]]] = {
    **cascades.FINDERS,
    PROPOSAL: lambda: proposals.propose,
}


class OpenCvDetector:
    """Finds people, faces and the other things OpenCV has trained detectors for, and class-agnostic proposals.

    Of the boxes of one named class that overlap by more than 0.5, the most confident is kept; proposals may overlap.
    Boxes below a confidence of 0.05 are dropped. The same image gives the same result to the bit.
    """

    model_id = "opencv-embedded"
    images_per_call = IMAGES_PER_CALL
    least_confidence = 0.3
    revision = code_revision("1", cascades=cascades.PARAMETERS, proposals=proposals.PARAMETERS, nms=NMS_IOU)

    def __init__(self) -> None:
        self._threads = local()

    def load(self) -> None:
        """Nothing to load ahead: each class's detector is read from OpenCV's package when it is first asked for."""

    def unload(self) -> None:
        """Free the detectors; the next call reads them again."""
        self._threads = local()

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Check that every class is known.

        Raises:
            UserError: a class is not known, or there is none; lists the known ones.
        """
        unknown = [prompt.label for prompt in prompts if prompt.label not in FINDERS]
        if unknown or not prompts:
            known = ", ".join(name for name in FINDERS if name != PROPOSAL)
            raise UserError(
                f"the embedded detector does not know {', '.join(map(repr, unknown)) or 'an empty list of classes'}; "
                f"it knows {known}; any other class can be labelled by example: put a few pictures of it into a "
                "folder of its name in the project's support folder"
            )

    def detect(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[sv.Detections]:
        """Find objects in images.

        Args:
            images: (height, width, 3), uint8, each.
            prompts: classes, or ``PROPOSAL``; their synonyms and negatives do not matter here.

        Returns:
            One ``sv.Detections`` an image, named classes before proposals, most confident first: ``xyxy`` float32
            in pixels inside the image, ``class_id`` an index into ``prompts``, ``confidence`` in 0–1.

        Raises:
            UserError: a prompt is not known.
        """
        self.check_prompts(prompts)
        return map_images(lambda image: self._detect(image, prompts), images)

    def _detect(self, image: Image, prompts: Sequence[Prompt]) -> sv.Detections:
        finders = self._own_finders(prompts)
        found = [finders[prompt.label](image) for prompt in prompts]
        boxes = clip_xyxy(np.concatenate([boxes for boxes, _ in found]), image.shape[1], image.shape[0])
        confidence = np.concatenate([confidences for _, confidences in found])
        class_id = np.repeat(np.arange(len(prompts)), [len(confidences) for _, confidences in found])
        order = np.lexsort((*boxes.T, class_id, -confidence))
        sides = boxes[order, 2:] - boxes[order, :2]
        order = order[(confidence[order] >= LEAST_CONFIDENCE) & (sides >= 1).all(axis=1)]
        # Proposals are different readings of the same region, thinned already; the classifier chooses among them.
        proposed = np.array([prompts[index].label == PROPOSAL for index in class_id[order]], dtype=bool)
        named = _detections(boxes, confidence, class_id, order[~proposed]).with_nms(threshold=NMS_IOU)
        return sv.Detections.merge([named, _detections(boxes, confidence, class_id, order[proposed])])

    def _own_finders(self, prompts: Sequence[Prompt]) -> dict[str, Callable[[Image], cascades.Found]]:
        """What finds each class, this thread's own: a cascade keeps the image that it is searching."""
        finders: dict[str, Callable[[Image], cascades.Found]] = self._threads.__dict__
        for prompt in prompts:
            if prompt.label not in finders:
                finders[prompt.label] = FINDERS[prompt.label]()
        return finders


def _detections(
    boxes: NDArray[np.float64], confidence: NDArray[np.float64], class_id: NDArray[np.intp], order: NDArray[np.intp]
) -> sv.Detections:
    return sv.Detections(
        xyxy=boxes[order].astype(np.float32),
        confidence=confidence[order].astype(np.float32),
        class_id=class_id[order].astype(int),
    )
