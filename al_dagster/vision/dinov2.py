"""Embeddings of objects by DINOv2 (Oquab et al., 2023, arXiv:2304.07193), by the implementation in transformers."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.image_utils import pil_torch_interpolation_mapping

from al_dagster.vision.catalog import DINOV2_CODE_VERSION
from al_dagster.vision.checkpoints import read_network
from al_dagster.vision.network_input import network_input
from al_dagster.vision.protocols import Image
from al_dagster.vision.torch_runtime import Runtime, TorchModel
from al_dagster.vision.weights import Weights

SIDE = 224
"""Side of the network's input in pixels, where the checkpoint's image processor names none."""

MOST_CROPS = 256
TRANSFER_BYTES = 64 * 2**20
"""Crops go to the device in portions of this size, so that crops of very large objects do not fill its memory."""

SMALLEST_COMPILED = 8


class DinoV2Embedder(TorchModel):
    """The class token of DINOv2 after its last layer norm, of L2 norm 1.

    A crop is resized to the square that the checkpoint's processor cuts out (224 pixels), by the processor's own
    resampling and statistics, and none of it is cut off: crops of objects are square and padded already.

    The weights are part of ``revision``, so that vectors of other weights have another fingerprint and are computed
    anew when their batch is labelled again.

    Args:
        weights: a checkpoint of DINOv2 in the format of transformers.
        runtime: where it runs.
        version_id: name of the embedding version, such as ``dinov2_base_v1_4f2a9c``.
    """

    images_per_call = 32

    def __init__(self, weights: Weights, runtime: Runtime, version_id: str) -> None:
        super().__init__(runtime)
        self._weights = weights
        self.model_id = weights.name
        self.revision = f"{weights.revision}.{DINOV2_CODE_VERSION}"
        self.version_id = version_id
        self.dimension = int(AutoConfig.from_pretrained(weights.folder, local_files_only=True).hidden_size)
        self.groups: tuple[int, ...] = (self.dimension,)
        self._processor: Any = AutoImageProcessor.from_pretrained(weights.folder, local_files_only=True)
        self._batches = self.micro_batches(MOST_CROPS)

    @property
    def side(self) -> int:
        """Side of the network's input, pixels."""
        size = self._processor.crop_size or {}
        return int(size.get("height") or SIDE)

    def embed(self, crops: Sequence[Image]) -> NDArray[np.float32]:
        """Vectors of crops: (n, dimension), float32, L2 norm 1.

        Args:
            crops: n square pictures of objects, (side, side, 3) each, uint8, of any sides.

        Raises:
            UserError: one crop alone needs more memory than there is.
        """
        if not crops:
            return np.empty((0, self.dimension), dtype=np.float32)
        rows = self._batches.run(crops, lambda some: self._vectors(some).unbind())
        # The vectors stay on the device to here, so that no batch waits for the one before.
        return torch.stack(rows).cpu().numpy()

    def _build(self) -> torch.nn.Module:
        module: torch.nn.Module = read_network(AutoModel, self._weights.folder)
        self._weights.check()
        if self.runtime.compile:
            module.compile(dynamic=False)
        return module

    def _vectors(self, crops: Sequence[Image]) -> torch.Tensor:
        """Vectors of as many crops as go through the network at once: (n, dimension), float32, on the device."""
        module = self.module
        with torch.inference_mode():
            pixels = self._pixels(crops)
            if self.runtime.compile:
                # Few sizes of batch, since each is compiled by itself.
                fixed = max(SMALLEST_COMPILED, 1 << (len(crops) - 1).bit_length())
                pixels = torch.cat([pixels, pixels.new_zeros(fixed - len(crops), *pixels.shape[1:])])
            pooled = module(pixel_values=pixels).pooler_output[: len(crops)]
            return torch.nn.functional.normalize(pooled.float(), dim=1)

    def _pixels(self, crops: Sequence[Image]) -> torch.Tensor:
        """What the network takes: (n, 3, side, side), normalised, on the device and in the precision it runs in."""
        shipped = self._processor
        return network_input(
            chain.from_iterable(self._transferred(crops)),
            self.side,
            shipped.image_mean,
            shipped.image_std,
            self.device,
            self.dtype,
            pil_torch_interpolation_mapping[PIL.Image.Resampling(shipped.resample)],
        )

    def _transferred(self, crops: Sequence[Image]) -> Iterator[list[torch.Tensor]]:
        """The crops on the device, (3, side, side) each, uint8, in portions that one transfer brings there."""
        device = self.device
        for portion in _portions(crops):
            packed = torch.empty(
                sum(crop.size for crop in portion), dtype=torch.uint8, pin_memory=device.type == "cuda"
            )
            np.concatenate([crop.ravel() for crop in portion], out=packed.numpy())
            parts = packed.to(device, non_blocking=True).split([crop.size for crop in portion])
            yield [part.view(crop.shape).permute(2, 0, 1) for part, crop in zip(parts, portion, strict=True)]


def _portions(crops: Sequence[Image]) -> Iterator[list[Image]]:
    """Crops in their order, in lists of at most ``TRANSFER_BYTES`` or a single crop."""
    portion: list[Image] = []
    size = 0
    for crop in crops:
        if portion and size + crop.size > TRANSFER_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(crop)
        size += crop.size
    if portion:
        yield portion
