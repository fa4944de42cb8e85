"""A DINOv2 checkpoint with random weights, in the format of the real ones."""

from pathlib import Path

import torch
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BICUBIC = 3

SCALES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 70},
    "full": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4, "image_size": 518},
}
CROPS = {"tiny": 56, "full": 224}


def build_dinov2(folder: Path, scale: str, seed: int = 0) -> None:
    """Write a checkpoint: config.json, model.safetensors and preprocessor_config.json.

    Like the real ones, it has position embeddings for larger images than its processor cuts out.

    Args:
        folder: made if it is not there.
        scale: ``full`` for the architecture of dinov2-base, 86.6 million parameters; ``tiny`` for one of 37 thousand.
        seed: of the weights.
    """
    config = Dinov2Config(patch_size=14, layerscale_value=1.0, **SCALES[scale])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Dinov2Model(config)
    model.save_pretrained(folder)
    side = CROPS[scale]
    BitImageProcessor(
        size={"shortest_edge": side * 8 // 7},
        crop_size={"height": side, "width": side},
        resample=BICUBIC,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    ).save_pretrained(folder)
