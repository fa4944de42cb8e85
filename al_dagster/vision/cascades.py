"""Objects with a trained detector inside OpenCV: people by HOG, faces and the like by Haar cascades."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from al_dagster.vision.protocols import Image

Found = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Boxes (n, 4) as x1, y1, x2, y2 in pixels, and their confidences (n,)."""

LONGEST_SIDE = 640
"""Larger images are scaled down to this many pixels before they are searched."""


@dataclass(frozen=True)
class Cascade:
    """A Haar cascade and how its evidence becomes a confidence.

    A window that holds the object is hit many times, at neighbouring places and scales. The number of hits that merge
    into one box separates true boxes from chance far better than the weight of the last stage, so the confidence is
    ``1 / (1 + exp(-(hits - even) / spread))``.

    Args:
        files: names of the cascade files; their hits are merged.
        even: merged hits at which a box is as likely right as wrong.
        spread: hits over which the confidence moves from 0.5 to 0.73.
        mirrored: search the mirrored image as well, for cascades trained on one side.
        smallest: shortest side of a box, as a share of the image's shorter side.
        within: class whose boxes alone are searched: what looks like a smile is one only in a face.
    """

    files: tuple[str, ...]
    even: float = 8.0
    spread: float = 2.5
    mirrored: bool = False
    smallest: float = 0.03
    within: str | None = None


CASCADES: dict[str, tuple[Cascade, ...]] = {
    "face": (
        Cascade(("haarcascade_frontalface_alt2.xml",), even=9.0),
        Cascade(("haarcascade_profileface.xml",), even=9.0, mirrored=True),
    ),
    "cat face": (Cascade(("haarcascade_frontalcatface_extended.xml",)),),
    "eye": (Cascade(("haarcascade_eye.xml",), even=8.0, spread=3.0, smallest=0.02, within="face"),),
    "smile": (Cascade(("haarcascade_smile.xml",), even=45.0, spread=10.0, within="face"),),
    "full body": (Cascade(("haarcascade_fullbody.xml",)),),
    "upper body": (Cascade(("haarcascade_upperbody.xml",), even=13.0, spread=3.0),),
    "lower body": (Cascade(("haarcascade_lowerbody.xml",), even=12.0, spread=3.0),),
    "license plate": (Cascade(("haarcascade_russian_plate_number.xml",), even=12.0, spread=3.0),),
}

SCALE_STEP = 1.1
PEOPLE_LONGEST_SIDE = 800
_CASCADE_FOLDER = Path(cv2.__file__).parent / "data"
PEOPLE_EVEN = 0.55
PEOPLE_SPREAD = 0.18


class CascadeFinder:
    """Finds the objects of one class by its Haar cascades; one thread at a time may use it.

    Args:
        cascades: the cascades whose boxes together are the class.
    """

    def __init__(self, cascades: tuple[Cascade, ...]) -> None:
        self._loaded = [
            (cascade, [cv2.CascadeClassifier(str(_CASCADE_FOLDER / name)) for name in cascade.files])
            for cascade in cascades
        ]
        self._holders = {
            cascade.within: CascadeFinder(CASCADES[cascade.within]) for cascade in cascades if cascade.within
        }

    def __call__(self, image: Image) -> Found:
        """Boxes and confidences in an image."""
        small, scale = scaled_down(image, LONGEST_SIDE)
        grey = np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        boxes, confidences = [np.empty((0, 4))], [np.empty(0)]
        for cascade, classifiers in self._loaded:
            for mirrored in (False, True) if cascade.mirrored else (False,):
                corners, hits = _hits(classifiers, grey[:, ::-1].copy() if mirrored else grey, cascade.smallest)
                if mirrored:
                    corners[:, [0, 2]] = small.shape[1] - corners[:, [2, 0]]
                certain = logistic(hits, cascade.even, cascade.spread)
                if cascade.within:
                    holders, holder_confidences = self._holders[cascade.within](image)
                    inside = _centred_in(corners / scale, holders[holder_confidences >= 0.5])
                    corners, certain = corners[inside], certain[inside]
                boxes.append(corners / scale)
                confidences.append(certain)
        return np.concatenate(boxes), np.concatenate(confidences)


def _centred_in(boxes: NDArray[np.float64], holders: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which boxes are smaller than a holder and have their centre in it: (n,)."""
    centres = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    inside = np.logical_and(centres >= holders[None, :, :2], centres <= holders[None, :, 2:]).all(axis=2)
    narrower = (boxes[:, None, 2:] - boxes[:, None, :2] < holders[None, :, 2:] - holders[None, :, :2]).all(axis=2)
    return np.any(np.logical_and(inside, narrower), axis=1)


def _hits(classifiers: list[cv2.CascadeClassifier], grey: NDArray[np.uint8], smallest: float) -> Found:
    """Merged boxes and how many hits each was merged from."""
    side = max(20, round(min(grey.shape) * smallest))
    raw = [
        tuple(int(value) for value in box)
        for classifier in classifiers
        for box in classifier.detectMultiScale(grey, scaleFactor=SCALE_STEP, minNeighbors=0, minSize=(side, side))
    ]
    # OpenCV's threads hand hits over in any order; sorted, they merge the same way each time.
    merged, counts = cv2.groupRectangles(sorted(raw), groupThreshold=2, eps=0.2)
    corners = np.asarray(merged, dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners, np.asarray(counts, dtype=np.float64).reshape(-1)


class PeopleFinder:
    """Finds standing people by OpenCV's HOG descriptor and its linear SVM.

    The confidence is the logistic of the SVM's margin: 0.5 at a margin of 0.55, 0.73 at 0.73.
    """

    def __init__(self) -> None:
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(np.asarray(cv2.HOGDescriptor.getDefaultPeopleDetector(), dtype=np.float32))

    def __call__(self, image: Image) -> Found:
        """Boxes and confidences in an image."""
        small, scale = scaled_down(image, PEOPLE_LONGEST_SIDE)
        if small.shape[0] < 128 or small.shape[1] < 64:
            return np.empty((0, 4)), np.empty(0)
        rectangles, weights = self._hog.detectMultiScale(
            cv2.cvtColor(small, cv2.COLOR_RGB2BGR),
            hitThreshold=0.0,
            winStride=(8, 8),
            padding=(16, 16),
            scale=1.05,
            groupThreshold=0,
        )
        corners = np.asarray(rectangles, dtype=np.float64).reshape(-1, 4)
        # The trained window has a border of background around the person, a quarter of its width and an eighth of
        # its height in all.
        inset = corners[:, 2:] * (0.125, 0.0625)
        corners = np.concatenate([corners[:, :2] + inset, corners[:, :2] + corners[:, 2:] - inset], axis=1) / scale
        margins = np.asarray(weights, dtype=np.float64).reshape(-1)
        order = np.lexsort((*corners.T, -margins))
        return corners[order], logistic(margins[order], PEOPLE_EVEN, PEOPLE_SPREAD)


FINDERS: dict[str, Callable[[], Callable[[Image], Found]]] = {
    "person": PeopleFinder,
    **{name: (lambda cascades=cascades: CascadeFinder(cascades)) for name, cascades in CASCADES.items()},  # type: ignore[misc]
}
"""For each class name that OpenCV has a trained detector for, what loads it."""


PARAMETERS = {
    "cascades": {name: [asdict(cascade) for cascade in group] for name, group in CASCADES.items()},
    "longest_side": LONGEST_SIDE,
    "scale_step": SCALE_STEP,
    "people": [PEOPLE_LONGEST_SIDE, PEOPLE_EVEN, PEOPLE_SPREAD],
}
"""What the boxes and confidences depend on."""


def scaled_down(image: Image, longest_side: int) -> tuple[Image, float]:
    """The image with its longer side at most this many pixels, and the factor it was scaled by."""
    scale = min(1.0, longest_side / max(image.shape[:2]))
    if scale == 1.0:
        return image, 1.0
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8), scale


def logistic(values: NDArray[np.float64], even: float, spread: float) -> NDArray[np.float64]:
    """Values squashed to 0–1, 0.5 where a value equals ``even``."""
    return 1.0 / (1.0 + np.exp(-(values - even) / spread))
