"""Boxes of whatever stands out, by SAM 2 from a grid of points: the automatic masks of Kirillov et al. 2023.

"Segment Anything", appendix B: every point of a grid gets masks of a whole, a part and a part of a part; those that the
network is sure of and that change little with the threshold stay, and of several of the same thing the surest.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import supervision as sv
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from al_dagster.core.errors import UserError
from al_dagster.core.project import PROPOSAL
from al_dagster.vision.mask_cleaning import clean_mask
from al_dagster.vision.parallel import map_images
from al_dagster.vision.protocols import Image, Mask, Prompt
from al_dagster.vision.revisions import code_revision
from al_dagster.vision.sam2 import Sam2Segmenter, image_sizes, trimmed
from al_dagster.vision.sam2_network import Features
from al_dagster.vision.sam2_transforms import crop_masks, mask_windows

CODE_VERSION = "1"

MASKS_AT_ONCE = 16
"""Masks held at the resolution of their image at once."""


@dataclass(frozen=True)
class ProposalFilters:
    """What becomes of the masks of the grid.

    Args:
        points_per_side: points of the grid across and down. Each point costs a decoded prompt: 16 give 256, about the
            cost of 30 images' boxes, and find what is larger than a sixteenth of the image's side; 32, as in the paper,
            cost four times that and find smaller things.
        least_iou: predicted IoU below which a mask is dropped.
        least_stability: stability score below which a mask is dropped.
        stability_offset: how far the threshold is moved up and down for the stability score, in logits.
        least_area: pixels of the image below which a mask is dropped.
        most_overlap: IoU of boxes above which of two masks the surer stays.
    """

    points_per_side: int = 16
    least_iou: float = 0.8
    least_stability: float = 0.95
    stability_offset: float = 1.0
    least_area: int = 100
    most_overlap: float = 0.7


class Sam2Proposer:
    """A detector of class-agnostic boxes, found with the network and the image features of a segmenter.

    Scores, stability and first duplicates are judged on the low-resolution masks; what is left is brought to the
    image's resolution, a few masks at a time, and cleaned, and its box is the box around its pixels.

    Args:
        segmenter: whose network is used; it is loaded and unloaded as the segmenter is.
        filters: which masks become proposals.
    """

    def __init__(self, segmenter: Sam2Segmenter, filters: ProposalFilters | None = None) -> None:
        self.segmenter = segmenter
        self.filters = filters or ProposalFilters()
        self.model_id = f"{segmenter.model_id}-proposals"
        self.revision = f"{segmenter.revision}.{code_revision(CODE_VERSION, **asdict(self.filters))}"
        self.images_per_call = segmenter.images_per_call
        self.least_confidence = self.filters.least_iou

    def load(self) -> None:
        """Bring the segmenter's weights into memory."""
        self.segmenter.load()

    def unload(self) -> None:
        """Free the segmenter's weights."""
        self.segmenter.unload()

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Check that nothing but proposals is asked for.

        Raises:
            UserError: a prompt names a class.
        """
        named = [prompt.label for prompt in prompts if prompt.label != PROPOSAL]
        if named:
            raise UserError(
                f"{self.model_id} cannot know {', '.join(named)}: it gives proposals only; ask for {PROPOSAL!r} and "
                "give examples of the classes, or choose a detector that is asked by name"
            )

    def detect(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[sv.Detections]:
        """Proposals, of the first prompt.

        Args:
            images: n images.
            prompts: ``PROPOSAL``; none give no boxes.

        Returns:
            For each image, what ``propose`` gives.

        Raises:
            UserError: a prompt names a class.
        """
        self.check_prompts(prompts)
        return self.propose(images) if prompts else [sv.Detections.empty() for _ in images]

    def propose(self, images: Sequence[Image]) -> list[sv.Detections]:
        """Boxes of things in images.

        Args:
            images: n images.

        Returns:
            For each image, proposals, the surest first: ``xyxy`` in pixels inside the image, ``confidence`` the
            predicted IoU of the mask, 0–1, ``class_id`` 0.
        """
        return [
            self._proposals(image, features)
            for start in range(0, len(images), self.images_per_call)
            for some in [images[start : start + self.images_per_call]]
            for image, features in zip(some, self.segmenter.features(some), strict=True)
        ]

    def _proposals(self, image: Image, features: Features) -> sv.Detections:
        height, width = image.shape[:2]
        points = point_grid(self.filters.points_per_side) * np.array([width, height])
        prompts = self.segmenter.prompts([image], [points[:, None]], [np.ones((len(points), 1), dtype=np.int32)])
        size = image_sizes([image])

        def keep(
            part: NDArray[np.int64], logits: torch.Tensor, scores: torch.Tensor
        ) -> list[tuple[torch.Tensor, torch.Tensor]]:
            kept = self._sure(logits, scores, height * width)
            counts = kept.sum(dim=1).tolist()
            return list(zip(logits[kept].split(counts), scores[kept].split(counts), strict=True))

        found = self.segmenter.decode([features], prompts, keep, several=True)
        logits, scores = torch.cat([one for one, _ in found]), torch.cat([one for _, one in found])
        sizes = np.repeat(size, len(logits), axis=0)
        rough = torch.from_numpy(mask_windows(logits, sizes, reach=0.5)).to(scores)
        first = nms(rough, scores, self.filters.most_overlap)
        logits, scores = logits[first], scores[first].cpu()
        boxes = [box for start in range(0, len(logits), MASKS_AT_ONCE) for box in self._boxes(logits, start, size)]
        tight = torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 5))
        whole = tight[:, 4] >= self.filters.least_area
        tight, scores = tight[whole, :4], scores[whole]
        last = nms(tight, scores, self.filters.most_overlap)
        return sv.Detections(
            xyxy=tight[last].numpy(),
            confidence=scores[last].clamp(0, 1).numpy(),
            class_id=np.zeros(len(last), dtype=int),
        )

    def _sure(self, logits: torch.Tensor, scores: torch.Tensor, pixels: int) -> torch.Tensor:
        """Which masks (c, m, h, w) of an image of so many pixels pass the filters before scaling: (c, m), bool."""
        areas = (logits > 0).sum(dim=(-2, -1)) * (pixels / (logits.shape[-2] * logits.shape[-1]))
        stable = stability_scores(logits, self.filters.stability_offset) >= self.filters.least_stability
        return (scores >= self.filters.least_iou) & stable & (areas >= self.filters.least_area)

    def _boxes(self, logits: torch.Tensor, start: int, size: NDArray[np.int64]) -> list[tuple[float, ...]]:
        """Boxes and areas of some masks, cleaned, at their image's resolution: x1, y1, x2, y2, pixels."""
        some = logits[start : start + MASKS_AT_ONCE]
        sizes = np.repeat(size, len(some), axis=0)
        windows = mask_windows(some, sizes)
        crops = list(zip(crop_masks(some, windows, sizes), windows.tolist(), strict=True))
        return map_images(lambda crop: _box(trimmed(Mask(clean_mask(crop[0]), crop[1][0], crop[1][1], 0.0))), crops)


def point_grid(per_side: int) -> NDArray[np.float64]:
    """Points in the middles of the cells of a square grid, (per_side², 2), x and y as shares of the image's sides."""
    middles = (np.arange(per_side) + 0.5) / per_side
    return np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2)


def stability_scores(logits: torch.Tensor, offset: float) -> torch.Tensor:
    """How little masks change with their threshold (Kirillov et al. 2023): the IoU of what is above and below it.

    Args:
        logits: (..., h, w).
        offset: of the two thresholds from 0.

    Returns:
        (...), float32, 0–1: pixels above ``offset`` as a share of the pixels above ``-offset``, 0 where there are none.
    """
    high = (logits > offset).sum(dim=(-2, -1), dtype=torch.float32)
    low = (logits > -offset).sum(dim=(-2, -1), dtype=torch.float32)
    return high / low.clamp(min=1)


def _box(mask: Mask) -> tuple[float, ...]:
    height, width = mask.pixels.shape
    return (mask.x, mask.y, mask.x + width, mask.y + height, mask.area)
