"""Masks from boxes by GrabCut."""

from collections.abc import Sequence
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from al_dagster.vision import regions
from al_dagster.vision.backdrop import Difference, fit_surface
from al_dagster.vision.cascades import scaled_down
from al_dagster.vision.necks import LEVEL_STEP, split_touching
from al_dagster.vision.parallel import IMAGES_PER_CALL, map_images
from al_dagster.vision.protocols import Image, Mask
from al_dagster.vision.regions import Scene, scene_of, smoothed, stand_out
from al_dagster.vision.revisions import code_revision

CONTEXT = 0.25
WORKING_SIDE = 96
WHOLE_SIDE = 640
"""Longest side in pixels at which a whole image is looked at."""
LARGEST_SHARE = 0.35
"""Share of the image above which a box fills it."""
ITERATIONS = 2
SMALLEST_SHARE = 0.03
HOLE_SHARE = 0.02
BUMP = 0.5
"""Half the width, as a share of the mask's largest inner radius, up to which a part of a mask is a bump."""
LEAST_EXTENT = 0.6
"""Share of the box around a mask that must remain when its bumps are taken off."""
LEAST_AROUND = 20
MOST = 4.0
FALLBACK_SCORE = 0.05
SEED = 20
NECK = 0.6


class GrabCutSegmenter:
    """Cuts each object out by the colours inside and around its box.

    The crop of the box and a border of context is scaled to a working size, GrabCut separates the colours, and the
    result is cleaned: of the parts that touch at necks only, the one that spans the box best is kept, smoothed, its
    small holes filled. Where nothing sensible is left, the mask is the ellipse inside the box, with score 0.05.

    The score of a mask is 1 minus the overlap (Bhattacharyya coefficient) of the colour histograms of the object and of
    its surroundings: near 1 for an object unlike what it lies on, near 0 where the two cannot be told apart.
    """

    model_id = "opencv-grabcut"
    images_per_call = IMAGES_PER_CALL
    revision = code_revision(
        "1",
        context=CONTEXT,
        side=WORKING_SIDE,
        iterations=ITERATIONS,
        whole=[WHOLE_SIDE, LARGEST_SHARE],
        shares=[SMALLEST_SHARE, HOLE_SHARE],
        necks=[NECK, LEVEL_STEP],
        bumps=[BUMP, LEAST_EXTENT],
        levels=[LEAST_AROUND, MOST, FALLBACK_SCORE],
        seed=SEED,
        regions=regions.PARAMETERS,
    )

    def load(self) -> None:
        """Nothing to load: GrabCut has no weights."""

    def unload(self) -> None:
        """Nothing to free."""

    def segment(self, images: Sequence[Image], boxes: Sequence[NDArray[np.floating]]) -> list[list[Mask]]:
        """Masks of boxes.

        Args:
            images: n images.
            boxes: for each image, (k, 4) x1, y1, x2, y2 in pixels; a box is widened to whole pixels and cut to the
                image, and one that is empty or outside gets one pixel at the nearest place.

        Returns:
            For each image, one mask a box, in the order of the boxes, none empty.
        """
        found = [np.asarray(image_boxes, dtype=np.float64).reshape(-1, 4) for image_boxes in boxes]
        crowds = map_images(lambda pair: _crowd(*pair), zip(images, found, strict=True))
        single = [
            (image, box, crowd)
            for image, image_boxes, crowd in zip(images, found, crowds, strict=True)
            for box in image_boxes
        ]
        masks = iter(map_images(lambda job: _segment(*job), single))
        return [list(islice(masks, len(image_boxes))) for image_boxes in found]


def whole_pixels(box: NDArray[np.floating], width: int, height: int) -> tuple[int, int, int, int]:
    """The box widened to whole pixels and cut to an image of this size: x1, y1, x2, y2, never empty."""
    x1 = int(np.clip(np.floor(box[0]), 0, width - 1))
    y1 = int(np.clip(np.floor(box[1]), 0, height - 1))
    x2 = int(np.clip(np.ceil(box[2]), x1 + 1, width))
    y2 = int(np.clip(np.ceil(box[3]), y1 + 1, height))
    return x1, y1, x2, y2


def _crowd(image: Image, boxes: NDArray[np.float64]) -> Scene | None:
    """The scene of a whole image that objects crowd, so that little but neighbours is around each box; None if not."""
    if all(_fills(box, image) for box in boxes):
        return None
    small, _ = scaled_down(image, WHOLE_SIDE)
    scene = scene_of(small, smoothed(small))
    return scene if scene.surface.crowded else None


def _fills(box: NDArray[np.floating], image: Image) -> bool:
    """Whether the image is of this one object, so that its commonest colour may well be the object's."""
    return float((box[2] - box[0]) * (box[3] - box[1])) > LARGEST_SHARE * image.shape[0] * image.shape[1]


def _segment(image: Image, box: NDArray[np.float64], crowd: Scene | None) -> Mask:
    height, width = image.shape[:2]
    x1, y1, x2, y2 = whole_pixels(box, width, height)
    border = max(4, round(CONTEXT * max(x2 - x1, y2 - y1)))
    left, top = max(0, x1 - border), max(0, y1 - border)
    crop = image[top : min(height, y2 + border), left : min(width, x2 + border)]
    scale = min(1.0, WORKING_SIDE / max(crop.shape[:2]))
    size = (max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale)))
    small = np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), dtype=np.uint8) if scale < 1 else crop
    inner = whole_pixels(np.array([x1 - left, y1 - top, x2 - left, y2 - top]) * scale, size[0], size[1])
    window = (left / width, top / height, (left + crop.shape[1]) / width, (top + crop.shape[0]) / height)
    cut = _cleaned(_cut(small, inner, None if crowd is None or _fills(box, image) else (crowd, window)), inner)
    pixels = cut
    if scale < 1:
        enlarged = cv2.resize(cut.astype(np.float32), crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        pixels = enlarged > 0.5
    pixels = pixels[y1 - top : y2 - top, x1 - left : x2 - left]
    if not pixels.any():
        return Mask(_ellipse(x2 - x1, y2 - y1), x1, y1, FALLBACK_SCORE)
    return Mask(np.ascontiguousarray(pixels), x1, y1, _distinctness(small, cut))


def _cut(
    image: Image, inner: tuple[int, int, int, int], whole: tuple[Scene, tuple[float, float, float, float]] | None
) -> NDArray[np.bool_]:
    """GrabCut on how the crop differs from the surface, started from what stands out most.

    The surface is that of the whole scene, with the crop's place in it, or, without one, what is around the box.
    """
    x1, y1, x2, y2 = inner
    around = np.ones(image.shape[:2], dtype=bool)
    around[y1:y2, x1:x2] = False
    if around.sum() < LEAST_AROUND:
        return np.zeros(image.shape[:2], dtype=bool)
    smooth = smoothed(image)
    scene, window = whole or (Scene(fit_surface(smooth, around)), (0.0, 0.0, 1.0, 1.0))
    difference = scene.surface.difference(smooth, window)
    evidence = stand_out(image, difference, scene.level)
    threshold = float(np.clip(0.5 * np.percentile(evidence[y1:y2, x1:x2], 90), 1.0, MOST))
    labels = np.where(evidence > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[evidence > 1.5 * threshold] = cv2.GC_FGD
    # A neighbour that reaches into the surroundings must not teach the background its colours.
    labels[around & (evidence < 1.0)] = cv2.GC_BGD
    foreground = (labels == cv2.GC_PR_FGD) | (labels == cv2.GC_FGD)
    if min(foreground.sum(), (~foreground).sum()) < LEAST_AROUND:
        return foreground
    cv2.setRNGSeed(SEED)
    background_model, foreground_model = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(
        _shadowless(difference),
        labels,
        (0, 0, 0, 0),
        background_model,
        foreground_model,
        ITERATIONS,
        cv2.GC_INIT_WITH_MASK,
    )
    return (labels == cv2.GC_PR_FGD) | (labels == cv2.GC_FGD)


def _shadowless(difference: Difference) -> Image:
    """The difference from the surface as a picture in which shadows are faint: (h, w, 3), uint8, grey where alike."""
    brightness = np.where(difference.darkening > 0, 60.0, 20.0) * difference.darkening
    return np.clip(128.0 + 120.0 * difference.tint + brightness[..., None], 0, 255).astype(np.uint8)


def _cleaned(cut: NDArray[np.bool_], inner: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """The part that spans the box best, small holes filled; nothing when too little is left."""
    x1, y1, x2, y2 = inner
    area = (x2 - x1) * (y2 - y1)
    within = np.zeros(cut.shape, dtype=np.uint8)
    within[y1:y2, x1:x2] = cut[y1:y2, x1:x2]
    filled = ndimage.binary_fill_holes(within).astype(np.uint8)
    if area > 400:
        filled = cv2.morphologyEx(filled, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
    parts = split_touching(filled, NECK)[0]
    spans = [
        0.0 if window is None else (window[0].stop - window[0].start) * (window[1].stop - window[1].start) / area
        for window in ndimage.find_objects(parts)
    ]
    sizes = np.bincount(parts.ravel(), minlength=len(spans) + 1)[1:] / area
    # A thin thing across the box is what the box was drawn for, rather than a stout neighbour in its corner.
    fits = np.where(sizes >= SMALLEST_SHARE, np.array(spans) + 0.5 * sizes, 0.0)
    if fits.size == 0 or fits.max() == 0:
        return np.zeros_like(cut)
    kept = _without_bumps((parts == 1 + int(fits.argmax())) & (within > 0))
    holes, count = ndimage.label(~kept)
    small = np.flatnonzero(np.bincount(holes.ravel(), minlength=count + 1)[1:] <= HOLE_SHARE * kept.sum()) + 1
    return np.asarray(kept | np.isin(holes, small))


def _without_bumps(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without what sticks out of it and is thin beside it, such as the edge of a neighbour that it touches."""
    filled = np.pad(ndimage.binary_fill_holes(mask).astype(np.uint8), 1)
    radius = int(BUMP * cv2.distanceTransform(filled, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())
    if radius < 2:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    opened = cv2.morphologyEx(np.pad(filled, radius), cv2.MORPH_OPEN, kernel)[radius:-radius, radius:-radius]
    # Opening rounds corners off: a hexagon's by 0.155 times the radius.
    back = 2 * round(0.155 * radius + 1) + 1
    near = cv2.dilate(opened, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (back, back)))[1:-1, 1:-1] > 0
    smooth = mask & near
    # What reaches across the box is a handle or a shank and no bump.
    return smooth if _extent(smooth) >= LEAST_EXTENT * _extent(mask) else mask


def _extent(mask: NDArray[np.bool_]) -> int:
    """Area in pixels of the box around a mask, at least 1."""
    _, _, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return max(1, width * height)


def _distinctness(image: Image, cut: NDArray[np.bool_]) -> float:
    """1 minus the overlap of the colour histograms inside and outside."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    histograms = [
        cv2.calcHist([lab], [0, 1, 2], where.astype(np.uint8), [12, 16, 16], [0, 256, 0, 256, 0, 256]).ravel()
        for where in (cut, ~cut)
    ]
    inside, outside = (histogram / max(float(histogram.sum()), 1.0) for histogram in histograms)
    return round(float(np.clip(1.0 - np.sqrt(inside * outside).sum(), 0.0, 1.0)), 4)


def _ellipse(width: int, height: int) -> NDArray[np.bool_]:
    """The ellipse that fills a box, at least one pixel."""
    y, x = np.ogrid[:height, :width]
    inside = np.square((x + 0.5) / width * 2 - 1) + np.square((y + 0.5) / height * 2 - 1) <= 1
    return np.asarray(inside) if inside.any() else np.ones((height, width), dtype=bool)
