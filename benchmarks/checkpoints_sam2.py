"""Checkpoints of SAM 2 and EdgeTAM with random weights, in the format of the real ones.

``tiny`` is for tests (0.1 million parameters, 128-pixel inputs), ``full`` has the size of SAM 2.1 Hiera B+ or EdgeTAM.
The weights are scaled so that signals keep their size from layer to layer: masks have parts and edges, unlike those of
the libraries' own initialisation, which are all but constant.
"""

import math
from pathlib import Path

import torch
from torch import nn
from transformers import (
    EdgeTamConfig,
    EdgeTamModel,
    PreTrainedModel,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
)

SIZE = {"tiny": 128, "full": 1024}

HIERA = {
    "tiny": {
        "hidden_size": 8,
        "blocks_per_stage": [1, 2, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [8, 4, 8, 4],
        "global_attention_blocks": [4],
        "window_positional_embedding_background_size": [7, 7],
    },
    "full": {
        "hidden_size": 112,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 3, 16, 3],
        "embed_dim_per_stage": [112, 224, 448, 896],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "window_size_per_stage": [8, 4, 14, 7],
        "global_attention_blocks": [12, 16, 20],
        "window_positional_embedding_background_size": [14, 14],
    },
}

REPVIT = {
    "tiny": {"embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1]},
    "full": {"embed_dim": [48, 96, 192, 384], "depth": [2, 2, 14, 2]},
}

TINY_DECODER = {"mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32}


def build_sam2(folder: Path, scale: str, seed: int = 0) -> None:
    """Write a SAM 2.1 checkpoint.

    Args:
        folder: gets config.json, model.safetensors and the processor's files.
        scale: ``tiny``, or ``full`` for Hiera B+.
        seed: of the weights.
    """
    hiera = HIERA[scale] | {"image_size": [SIZE[scale]] * 2}
    channels = HIERA[scale]["embed_dim_per_stage"]
    torch.manual_seed(seed)
    model = Sam2Model(Sam2Config(**_parts(scale, channels, {"model_type": "sam2_hiera_det_model"} | hiera)))
    _write(model, folder, scale)


def build_edgetam(folder: Path, scale: str, seed: int = 0) -> None:
    """Write an EdgeTAM checkpoint.

    Args:
        folder: gets config.json, model.safetensors and the processor's files.
        scale: ``tiny``, or ``full`` for the size of the published one.
        seed: of the weights.
    """
    features = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    backbone = {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1",
        "model_args": REPVIT[scale] | features,
        "num_classes": 2,
    }
    torch.manual_seed(seed)
    model = EdgeTamModel(EdgeTamConfig(**_parts(scale, REPVIT[scale]["embed_dim"], backbone)))
    _write(model, folder, scale)


def _parts(scale: str, channels: list[int], backbone: dict[str, object]) -> dict[str, dict[str, object]]:
    """The parts of a configuration around a backbone whose stages have these channels."""
    size, width = SIZE[scale], 32 if scale == "tiny" else 256
    return {
        "vision_config": {
            "backbone_config": backbone,
            "backbone_channel_list": channels[::-1],
            "backbone_feature_sizes": [[size // stride, size // stride] for stride in (4, 8, 16)],
            "fpn_hidden_size": width,
        },
        "prompt_encoder_config": {"hidden_size": width, "image_size": size},
        "mask_decoder_config": {"hidden_size": width} | (TINY_DECODER if scale == "tiny" else {}),
    }


def _write(model: PreTrainedModel, folder: Path, scale: str) -> None:
    _scale_weights(model)
    size = {"height": SIZE[scale], "width": SIZE[scale]}
    mask_size = {"height": SIZE[scale] // 4, "width": SIZE[scale] // 4}
    model.save_pretrained(folder)
    Sam2Processor(Sam2ImageProcessor(size=size, mask_size=mask_size)).save_pretrained(folder)


@torch.no_grad()
def _scale_weights(model: PreTrainedModel) -> None:
    """Draw the weights anew, each layer's so that its outputs are about as large as its inputs."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            # The taps of a transposed convolution whose stride is its size do not add up.
            inputs = module.in_channels if isinstance(module, nn.ConvTranspose2d) else module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(1.5 / inputs))
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embed", "pos_embed_window", "no_memory_embedding")):
            nn.init.normal_(parameter, std=0.5)
    # As in the published checkpoints, prompts and the image's features are placed by the same random frequencies.
    shared = model.shared_image_embedding.positional_embedding
    model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
