"""From images to the input of a network: squeezed to a square and normalised."""

from collections.abc import Iterable, Sequence

import torch
from torchvision.transforms.v2 import functional as transforms

from al_dagster.vision.protocols import Image

LARGEST_ON_DEVICE = 32_000_000
"""Bytes of an image up to which it is resized on the device, which takes four times as much; a larger one is before."""


def picture(image: Image, device: torch.device) -> torch.Tensor:
    """An image as a tensor: (3, height, width), uint8, on the device unless it is so large that it would fill it."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    return pixels.to(device) if image.nbytes <= LARGEST_ON_DEVICE else pixels


def network_input(
    pictures: Iterable[torch.Tensor],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    dtype: torch.dtype,
    interpolation: transforms.InterpolationMode = transforms.InterpolationMode.BILINEAR,
) -> torch.Tensor:
    """Pictures squeezed to a square and normalised: (n, 3, size, size), on the device.

    It is what the image processors of transformers give (resized with antialiasing, rounded to whole grey levels): on
    the CPU to 1e-5, on a GPU, where torch rounds differently, to one grey level.

    Args:
        pictures: (3, height, width), uint8, of any sizes, each resized where it is.
        size: side of the square, pixels.
        mean: of each channel, on a scale of 0–1.
        std: of each channel, on the same scale.
        device: where the result is.
        dtype: precision of the result.
        interpolation: how pictures are resized.
    """
    squares = torch.stack(
        [transforms.resize(pixels, [size, size], interpolation, antialias=True).to(device) for pixels in pictures]
    )
    shift, scale = (torch.tensor(values, device=device).view(3, 1, 1) * 255 for values in (mean, std))
    return ((squares.float() - shift) / scale).to(dtype)
