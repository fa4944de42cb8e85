"""Weights of SAM 2 from the names of transformers to those of Meta's own code."""

import re
from collections.abc import Mapping

import torch

RENAMED = (
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^vision_encoder\.backbone\.patch_embed\.projection\.", "image_encoder.trunk.patch_embed.proj."),
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
    (r"\.shared_embedding\.positional_embedding$", ".pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"\.layer_norm(\d|_final_attn)\.", r".norm\1."),
    (r"\.o_proj\.", ".out_proj."),
    (r"^(prompt_encoder|mask_decoder)\.", r"sam_\1."),
)
"""Patterns and what they become, each applied to what the ones before it left."""

PLACES = "shared_image_embedding.positional_embedding"
PLACES_OF_PROMPTS = "prompt_encoder.shared_embedding.positional_embedding"
POINTS = "prompt_encoder.point_embed.weight"


def to_meta(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of Meta's SAM 2 for images, from that of ``Sam2Model``.

    Args:
        weights: all weights of a ``Sam2Model`` by name.

    Returns:
        The same tensors by Meta's names, as in its published checkpoints without what serves videos only.

    Raises:
        ValueError: prompts and the image are placed by different frequencies, which Meta's code cannot do.
    """
    if not torch.equal(weights[PLACES], weights[PLACES_OF_PROMPTS]):
        raise ValueError(f"{PLACES} and {PLACES_OF_PROMPTS} differ; Meta's code has one for both")
    converted = {}
    for name, tensor in weights.items():
        if name == POINTS:
            for index in range(len(tensor)):
                converted[f"sam_prompt_encoder.point_embeddings.{index}.weight"] = tensor[index : index + 1]
        elif name != PLACES:
            converted[_renamed(name, weights)] = tensor
    return converted


def _renamed(name: str, weights: Mapping[str, torch.Tensor]) -> str:
    layer = re.fullmatch(r"(.+)\.(proj_in|proj_out|layers\.(\d+))\.(weight|bias)", name)
    if layer and f"{layer[1]}.proj_in.weight" in weights:
        inner = sum(other.startswith(f"{layer[1]}.layers.") and other.endswith(".weight") for other in weights)
        number = {"proj_in": 0, "proj_out": inner + 1}.get(layer[2])
        if number is None:
            number = int(layer[3]) + 1
        name = f"{layer[1]}.layers.{number}.{layer[4]}"
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name
