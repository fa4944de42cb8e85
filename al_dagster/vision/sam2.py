"""Masks from boxes and points by SAM 2 (Ravi et al. 2024, "SAM 2: Segment Anything in Images and Videos")."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from al_dagster.vision import mask_cleaning
from al_dagster.vision.grabcut import whole_pixels
from al_dagster.vision.mask_cleaning import clean_mask
from al_dagster.vision.network_input import network_input, picture
from al_dagster.vision.parallel import map_images
from al_dagster.vision.protocols import Image, Mask
from al_dagster.vision.revisions import code_revision
from al_dagster.vision.sam2_network import Features, Sam2Network, TransformersSam2, read_model, read_statistics
from al_dagster.vision.sam2_transforms import crop_masks, mask_windows
from al_dagster.vision.torch_runtime import Runtime, TorchModel
from al_dagster.vision.weights import Weights

CODE_VERSION = "1"

IMAGES_PER_CALL = {"cuda": 32, "cpu": 4}
"""Images whose features are computed, and held, at once: 8 MB each in bfloat16 at full size."""

PROMPTS_PER_CALL = {"cuda": 64, "cpu": 16}
"""Prompts decoded at once, of one image or of several: each takes about 60 MB in float32 at full size."""

BOX_CORNERS = (2, 3)
"""Labels of the upper left and the lower right corner of a box that prompts."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Prompts:
    """What masks are asked for, a mask each.

    Args:
        images: (k,), int64, index of each prompt's image.
        points: (k, p, 2), float32, x and y in pixels of the network's input.
        labels: (k, p), int32: 1 on the object, 0 off it, 2 and 3 the corners of its box.
    """

    images: NDArray[np.int64]
    points: NDArray[np.float32]
    labels: NDArray[np.int32]


class Sam2Segmenter(TorchModel):
    """Cuts objects out by SAM 2 or EdgeTAM, whichever the checkpoint is.

    The features of several images are computed together, and then all boxes of these images together, each with the
    features of its own image. Masks stay on the device in low resolution; only what a box shows of its mask is brought
    to the image's resolution. It is cleaned by ``mask_cleaning``. The score of a mask is the IoU with the true mask
    that the network predicts. A box in which the network sees no object gets a mask without pixels.

    Args:
        weights: a checkpoint of transformers; its ``model_type`` is sam2, sam2_video, edgetam or edgetam_video.
        runtime: where the network runs.
    """

    def __init__(self, weights: Weights, runtime: Runtime) -> None:
        super().__init__(runtime)
        kind = "cuda" if self.device.type == "cuda" else "cpu"
        code = code_revision(CODE_VERSION, code=type(self).__name__, cleaning=mask_cleaning.PARAMETERS)
        self.weights = weights
        self.model_id = weights.name
        self.revision = f"{weights.revision}.{code}"
        self.images_per_call = IMAGES_PER_CALL[kind]
        self._image_batches = self.micro_batches(self.images_per_call)
        self._prompt_batches = self.micro_batches(PROMPTS_PER_CALL[kind])

    def _build(self) -> Sam2Network:
        network = self._network()
        self.weights.check()
        if self.runtime.compile:
            network.compile_halves()
        return network.eval()

    def _network(self) -> Sam2Network:
        """The network with its weights, on the CPU."""
        return TransformersSam2(read_model(self.weights.folder), *read_statistics(self.weights.folder))

    @property
    def network(self) -> Sam2Network:
        """The network on its device, loaded if it is not."""
        module = self.module
        assert isinstance(module, Sam2Network)
        return module

    def segment(self, images: Sequence[Image], boxes: Sequence[NDArray[np.floating]]) -> list[list[Mask]]:
        """Masks of boxes.

        Args:
            images: n images.
            boxes: for each image, (k, 4) x1, y1, x2, y2 in pixels. The network gets a box as it is; its mask is cut to
                the whole pixels that the box touches in the image, one pixel where it touches none.

        Returns:
            For each image, one mask a box, in the order of the boxes; none for an image without boxes.
        """
        found = [np.asarray(of_image, dtype=np.float64).reshape(-1, 4) for of_image in boxes]
        masks: list[list[Mask]] = [[] for _ in images]
        for chunk in self._chunks([len(of_image) for of_image in found], len(images)):
            some = [images[index] for index in chunk]
            counts = [len(found[index]) for index in chunk]
            windows = np.array(
                [whole_pixels(box, *images[index].shape[1::-1]) for index in chunk for box in found[index]]
            )
            prompts = self.prompts(some, [found[index].reshape(-1, 2, 2) for index in chunk])
            sizes = image_sizes(some)[prompts.images]

            def cut(
                part: NDArray[np.int64],
                logits: torch.Tensor,
                scores: torch.Tensor,
                windows: NDArray[np.int64] = windows,
                sizes: NDArray[np.int64] = sizes,
            ) -> list[tuple[NDArray[np.bool_], float]]:
                pixels = crop_masks(logits[:, 0], windows[part], sizes[part])
                return list(zip(pixels, scores[:, 0].tolist(), strict=True))

            cuts = self.decode(self.features(some), prompts, cut, several=False)
            cleaned = map_images(lambda one: clean_mask(one[0]), cuts)
            made = [
                Mask(pixels, int(x), int(y), score)
                for pixels, (x, y), (_, score) in zip(cleaned, windows[:, :2], cuts, strict=True)
            ]
            for index, (start, end) in zip(chunk, pairwise(np.cumsum([0, *counts])), strict=True):
                masks[index] = made[start:end]
        return masks

    def segment_points(
        self,
        images: Sequence[Image],
        points: Sequence[NDArray[np.floating]],
        labels: Sequence[NDArray[np.integer]],
    ) -> list[list[Mask]]:
        """Masks of objects that points show.

        A single point may mean a thing or a part of it: of the three masks that the network then gives, the one with
        the highest predicted IoU is taken.

        Args:
            images: n images.
            points: for each image, (k, p, 2): p points of each of k objects, x and y in pixels.
            labels: for each image, (k, p): 1 for a point on the object, 0 for one that is not.

        Returns:
            For each image, one mask an object, cut to the box around its pixels; one pixel, off, where it has none.
        """
        masks: list[list[Mask]] = [[] for _ in images]
        for chunk in self._chunks([len(of_image) for of_image in points], len(images)):
            features = self.features([images[index] for index in chunk])
            # One call takes objects with equally many points.
            for many in sorted({np.shape(points[index])[1] for index in chunk}):
                places = [place for place, index in enumerate(chunk) if np.shape(points[index])[1] == many]
                some = [images[chunk[place]] for place in places]
                prompts = self.prompts(
                    some,
                    [np.asarray(points[chunk[place]], dtype=np.float64) for place in places],
                    [np.asarray(labels[chunk[place]]) for place in places],
                )
                sizes = image_sizes(some)[prompts.images]

                def cut(
                    part: NDArray[np.int64],
                    logits: torch.Tensor,
                    scores: torch.Tensor,
                    sizes: NDArray[np.int64] = sizes,
                ) -> list[tuple[NDArray[np.bool_], NDArray[np.int64], float]]:
                    best, ones = scores.argmax(dim=1), torch.arange(len(scores), device=scores.device)
                    chosen = logits[ones, best]
                    windows = mask_windows(chosen, sizes[part])
                    windows[windows[:, 2] == 0] = (0, 0, 1, 1)
                    pixels = crop_masks(chosen, windows, sizes[part])
                    return list(zip(pixels, windows, scores[ones, best].tolist(), strict=True))

                cuts = self.decode([features[place] for place in places], prompts, cut, several=many == 1)
                made = map_images(
                    lambda one: trimmed(Mask(clean_mask(one[0]), int(one[1][0]), int(one[1][1]), one[2])), cuts
                )
                for mask, owner in zip(made, prompts.images.tolist(), strict=True):
                    masks[chunk[places[owner]]].append(mask)
        return masks

    def features(self, images: Sequence[Image]) -> list[Features]:
        """Features of images, on the device."""

        def call(some: Sequence[Image]) -> list[Features]:
            network = self.network
            with torch.inference_mode():
                pictures = (picture(image, self.device) for image in some)
                pixels = network_input(pictures, network.size, network.mean, network.std, self.device, self.dtype)
                levels = network.features(self._filled(pixels))
            return list(zip(*(level[: len(some)].unbind() for level in levels), strict=True))

        return self._image_batches.run(images, call)

    def prompts(
        self,
        images: Sequence[Image],
        points: Sequence[NDArray[np.floating]],
        labels: Sequence[NDArray[np.integer]] | None = None,
    ) -> Prompts:
        """Prompts for the network from places in images.

        Args:
            images: n images.
            points: for each image, (k, p, 2), x and y in pixels; p the same for all.
            labels: for each image, (k, p); None for the corners of boxes.
        """
        size = self.network.size
        scaled = [places * (size / np.array(image.shape[1::-1])) for image, places in zip(images, points, strict=True)]
        every = np.concatenate(scaled).astype(np.float32)
        images_of = np.repeat(np.arange(len(images)), [len(places) for places in points])
        if labels is None:
            return Prompts(images_of, every, np.tile(np.array(BOX_CORNERS, dtype=np.int32), (len(every), 1)))
        return Prompts(images_of, every, np.concatenate(labels).astype(np.int32))

    def decode(
        self,
        features: Sequence[Features],
        prompts: Prompts,
        finish: Callable[[NDArray[np.int64], torch.Tensor, torch.Tensor], Sequence[_Result]],
        *,
        several: bool,
    ) -> list[_Result]:
        """Decode prompts, many at a time, and keep of their masks what ``finish`` takes from them.

        Args:
            features: of the images that the prompts are about.
            prompts: k prompts.
            finish: gets the indices (c,) of some prompts, their mask logits (c, m, h, w) and predicted IoU (c, m), on
                the device; returns one result a prompt.
            several: whether a prompt gets three masks instead of one.
        """

        def call(indices: Sequence[int]) -> Sequence[_Result]:
            network, some = self.network, np.asarray(indices)
            with torch.inference_mode():
                own = tuple(
                    self._filled(torch.stack([features[image][level] for image in prompts.images[some].tolist()]))
                    for level in range(len(features[0]))
                )
                points = self._filled(torch.from_numpy(prompts.points[some]).to(self.device))
                labels = self._filled(torch.from_numpy(prompts.labels[some]).to(self.device))
                logits, scores = network.masks(own, points, labels, several)
                return finish(some, logits[: len(some)], scores[: len(some)])

        return self._prompt_batches.run(range(len(prompts.images)), call)

    def _chunks(self, counts: Sequence[int], images: int) -> list[list[int]]:
        """Indices of the images that have something to cut out, as many together as are worth a call."""
        if len(counts) != images:
            raise ValueError(f"expected prompts for {images} images, got them for {len(counts)}")
        todo = [index for index, count in enumerate(counts) if count]
        return [todo[start : start + self.images_per_call] for start in range(0, len(todo), self.images_per_call)]

    def _filled(self, batch: torch.Tensor) -> torch.Tensor:
        """The batch; for a compiled network, filled up with its last item to a power of two, to have few sizes."""
        if not self.runtime.compile:
            return batch
        missing = (1 << (len(batch) - 1).bit_length()) - len(batch)
        return torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])])


def image_sizes(images: Sequence[Image]) -> NDArray[np.int64]:
    """Height and width of images, (n, 2)."""
    return np.array([image.shape[:2] for image in images], dtype=np.int64)


def trimmed(mask: Mask) -> Mask:
    """The mask cut to the box around its pixels; its first pixel, off, where it has none."""
    rows, columns = np.flatnonzero(mask.pixels.any(axis=1)), np.flatnonzero(mask.pixels.any(axis=0))
    if not rows.size:
        return Mask(np.zeros((1, 1), dtype=bool), mask.x, mask.y, mask.score)
    window = mask.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Mask(np.ascontiguousarray(window), mask.x + int(columns[0]), mask.y + int(rows[0]), mask.score)
