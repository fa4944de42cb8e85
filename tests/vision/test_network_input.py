import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from transformers import BitImageProcessor, Sam2ImageProcessor

from al_dagster.vision.network_input import network_input, picture


@pytest.fixture(scope="module")
def images():
    """Four images of three sizes, of noise and of large blotches."""
    rng = np.random.default_rng(4)
    small = [rng.integers(0, 256, (9, 12, 3), dtype=np.uint8) for _ in range(3)]
    blotches = [image.repeat(scale, 0).repeat(scale, 1) for image, scale in zip(small, (10, 10, 25), strict=True)]
    return [*blotches, rng.integers(0, 256, (63, 84, 3), dtype=np.uint8)]


@pytest.mark.parametrize(
    ("processor", "interpolation"),
    [
        (Sam2ImageProcessor(size={"height": 128, "width": 128}), InterpolationMode.BILINEAR),
        (BitImageProcessor(size={"height": 128, "width": 128}, do_center_crop=False), InterpolationMode.BICUBIC),
    ],
    ids=["SAM 2", "DINOv2"],
)
def test_the_network_input_is_that_of_the_checkpoints_own_processor(images, processor, interpolation):
    frozen = images[3].copy()
    frozen.flags.writeable = False
    expected = processor([*images[:3], frozen], return_tensors="pt")["pixel_values"]
    cpu = torch.device("cpu")
    pictures = [picture(image, cpu) for image in (*images[:3], frozen)]
    found = network_input(pictures, 128, processor.image_mean, processor.image_std, cpu, torch.float32, interpolation)
    assert (found - expected).abs().max() <= 1e-5
