"""What the platform asks of a model: three roles over arrays, and one image type.

An image is an RGB array of shape (height, width, 3), uint8, upright.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import supervision as sv

Image = NDArray[np.uint8]

P_LABEL, P_BOX = "p_label", "p_box"
"""Keys of ``sv.Detections.data`` under which a detector that has them gives the two parts of its confidence."""


@dataclass(frozen=True)
class Prompt:
    """One class that a detector is asked for.

    Args:
        label: the class, or ``PROPOSAL``.
        synonyms: further phrases that mean the class; what they find has the class's label.
        negatives: phrases for what is easily taken for the class; a box that one of them explains better is dropped.
    """

    label: str
    synonyms: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()

    @property
    def phrases(self) -> tuple[str, ...]:
        """The class itself and its synonyms."""
        return (self.label, *self.synonyms)


@dataclass(frozen=True)
class Mask:
    """The pixels of one object, kept as the part of the image that its box covers.

    Args:
        pixels: (h, w), bool, in the frame of the crop.
        x: column of the crop's left edge in the image, pixels.
        y: row of the crop's top edge in the image, pixels.
        score: how sure the segmenter is, 0–1.
    """

    pixels: NDArray[np.bool_]
    x: int
    y: int
    score: float

    @property
    def area(self) -> int:
        """Number of pixels of the object."""
        return int(self.pixels.sum())

    def full(self, width: int, height: int) -> NDArray[np.bool_]:
        """The mask in an image of this size: (height, width), bool."""
        canvas = np.zeros((height, width), dtype=bool)
        canvas[self.y : self.y + self.pixels.shape[0], self.x : self.x + self.pixels.shape[1]] = self.pixels
        return canvas


@dataclass(frozen=True)
class Classification:
    """What an object was taken for.

    Args:
        label: a class of the support set, or ``Unknown``.
        score: mean cosine similarity to the nearest examples of the best class, -1 to 1; where the embedding has groups
            of features, they are weighted by how well they tell the examples apart.
        margin: lead of the best class over the second, 0–2; equal to the score where there is one class only.
    """

    label: str
    score: float
    margin: float


class Model(Protocol):
    """What every model has.

    Attributes:
        model_id: stable name of the model, such as ``opencv-proposals``.
        revision: what changes when its weights or parameters do; part of every fingerprint.
        images_per_call: as many images, or crops of as many, as are worth giving it at once.
    """

    model_id: str
    revision: str
    images_per_call: int

    def load(self) -> None:
        """Bring the weights into memory; calling it again does nothing."""

    def unload(self) -> None:
        """Free the weights; the next call loads them again."""


class Detector(Model, Protocol):
    """Finds objects by class name.

    Attributes:
        least_confidence: below it, boxes are dropped where the project does not say otherwise.
    """

    least_confidence: float

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raise a UserError that lists the known classes if this detector cannot know one of the prompts."""

    def detect(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> "list[sv.Detections]":
        """Find objects in images.

        Returns:
            One ``sv.Detections`` an image: ``xyxy`` in pixels inside the image, ``class_id`` an index into
            ``prompts``, ``confidence`` in 0–1, and perhaps its two parts in ``data``.
        """
        ...


class Segmenter(Model, Protocol):
    """Cuts objects out by their boxes."""

    def segment(self, images: Sequence[Image], boxes: Sequence[NDArray[np.floating]]) -> list[list[Mask]]:
        """Masks of boxes.

        Args:
            images: n images.
            boxes: for each image, (k, 4) x1, y1, x2, y2 in pixels.

        Returns:
            For each image, one mask a box, in the order of the boxes, none reaching outside its box.
        """
        ...


class Embedder(Model, Protocol):
    """Turns pictures of objects into vectors.

    Attributes:
        version_id: name of the embedding version, such as ``dinov2_base_v1_4f2a9c``, another for each revision; vectors
            of two versions never mix.
        dimension: length of a vector.
        groups: as many features of a vector, in their order, as describe one thing, such as shape or colour; the sum is
            the dimension. What few examples are told apart by is learnt for groups; one group is never changed.
    """

    version_id: str
    dimension: int
    groups: tuple[int, ...]

    def embed(self, crops: Sequence[Image]) -> NDArray[np.float32]:
        """Vectors of crops: (n, dimension), float32, L2 norm 1."""
        ...
