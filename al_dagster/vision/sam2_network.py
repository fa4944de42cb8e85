"""SAM 2 as a network in two halves, images to features and prompts to masks, over the classes of transformers."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from al_dagster.core.errors import UserError
from al_dagster.vision.checkpoints import read_network
from al_dagster.vision.precision import FullPrecision

Features = tuple[torch.Tensor, ...]
"""An image's features, each (channels, height, width), at strides 4, 8 and 16; or a batch of them."""

MODEL_CLASSES = {
    "sam2": "Sam2Model",
    "sam2_video": "Sam2Model",
    "edgetam": "EdgeTamModel",
    "edgetam_video": "EdgeTamModel",
}
"""Class of transformers for each ``model_type``; a video checkpoint holds the image model and a memory besides."""


class Sam2Network(nn.Module, ABC):
    """The two halves of SAM 2.

    Args:
        size: side of the network's square input, pixels.
        mean: of each colour channel, on a scale of 0–1.
        std: of each colour channel, on the same scale.
    """

    def __init__(self, size: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.size, self.mean, self.std = size, mean, std

    @abstractmethod
    def features(self, pixels: torch.Tensor) -> Features:
        """Features of images: (n, 3, size, size) to three of (n, channels, height, width), high resolution first."""

    @abstractmethod
    def masks(
        self, features: Features, points: torch.Tensor, labels: torch.Tensor, several: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask logits of prompts, each with the features of its own image.

        Args:
            features: three of (k, channels, height, width).
            points: (k, p, 2), float32, x and y in pixels of the network's input.
            labels: (k, p), int32: 1 on the object, 0 off it, 2 the box's upper left corner, 3 its lower right one.
            several: whether three masks a prompt are wanted, as for a prompt that may mean a thing or a part of it.

        Returns:
            Logits (k, m, size / 4, size / 4), above 0 on the object, and predicted IoU (k, m), 0–1; m is 3 or 1.
        """

    @abstractmethod
    def compile_halves(self) -> None:
        """Have torch compile the two halves at their first calls, for each size of batch anew."""


class TransformersSam2(Sam2Network):
    """SAM 2 or EdgeTAM of transformers.

    Args:
        model: a ``Sam2Model`` or an ``EdgeTamModel``.
        mean: of each colour channel, on a scale of 0–1.
        std: of each colour channel, on the same scale.
    """

    def __init__(self, model: Any, mean: list[float], std: list[float]) -> None:
        super().__init__(model.config.prompt_encoder_config.image_size, mean, std)
        self.encoder, self.decoder = model.vision_encoder, model.mask_decoder
        self.prompts = FullPrecision(model.prompt_encoder)
        self.places = FullPrecision(model.shared_image_embedding)
        self.grid = self.size // model.config.prompt_encoder_config.patch_size
        self.no_memory = nn.Parameter(model.no_memory_embedding.reshape(1, -1, 1, 1))

    def features(self, pixels: torch.Tensor) -> Features:
        """Features of images."""
        fine, middle, coarse = self.encoder(pixels).fpn_hidden_states
        return self.decoder.conv_s0(fine), self.decoder.conv_s1(middle), coarse + self.no_memory

    def masks(
        self, features: Features, points: torch.Tensor, labels: torch.Tensor, several: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask logits of prompts."""
        coarse = features[-1]
        sparse, dense = self.prompts(points[:, None], labels[:, None], None, None)
        centres = (torch.arange(self.grid, device=points.device) + 0.5) / self.grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        places = self.places(torch.stack([x, y], dim=-1)).permute(2, 0, 1)
        logits, scores, *_ = self.decoder(
            image_embeddings=coarse,
            image_positional_embeddings=places.to(coarse.dtype).expand(len(coarse), -1, -1, -1),
            sparse_prompt_embeddings=sparse.to(coarse.dtype),
            dense_prompt_embeddings=dense.to(coarse.dtype),
            multimask_output=several,
            high_resolution_features=list(features[:-1]),
        )
        return logits[:, 0], scores[:, 0].float()

    def compile_halves(self) -> None:
        """Have torch compile the image encoder and the mask decoder."""
        self.encoder.compile(dynamic=False)
        self.decoder.compile(dynamic=False)


def read_model(folder: Path) -> Any:
    """The SAM 2 or EdgeTAM model of a checkpoint, in float32 on the CPU, in evaluation mode.

    Args:
        folder: config.json and model.safetensors, as published for transformers.

    Raises:
        UserError: the folder has no whole checkpoint, or one of another architecture.
    """
    import transformers

    name = MODEL_CLASSES.get(model_type(folder))
    if name is None:
        raise UserError(
            f"{folder}: is a {model_type(folder)!r} checkpoint; "
            f"a SAM 2 segmenter needs one of {', '.join(MODEL_CLASSES)}"
        )
    return read_network(getattr(transformers, name), folder)


def model_type(folder: Path) -> str:
    """The architecture that a checkpoint's config.json names.

    Raises:
        UserError: there is no such file, or it names none.
    """
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: has no config.json that names an architecture; fetch the model with `al models fetch`"
        ) from error


def read_statistics(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the colour channels by a checkpoint's image processor, on a scale of 0–1."""
    from transformers import Sam2ImageProcessor

    processor = Sam2ImageProcessor.from_pretrained(folder, local_files_only=True)
    return list(processor.image_mean), list(processor.image_std)
