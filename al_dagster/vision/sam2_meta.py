"""Masks by Meta's own implementation of SAM 2, the package ``sam2``, from a checkpoint of transformers."""

from typing import Any

import torch
from torch import nn

from al_dagster.core.errors import UserError
from al_dagster.vision.precision import FullPrecision
from al_dagster.vision.sam2 import Sam2Segmenter
from al_dagster.vision.sam2_conversion import to_meta
from al_dagster.vision.sam2_network import Features, Sam2Network, model_type, read_model, read_statistics


class MetaSam2Segmenter(Sam2Segmenter):
    """Cuts objects out by Meta's own code, the extra ``sam2``; with the same weights, the masks of ``Sam2Segmenter``.

    Args:
        weights: a SAM 2 checkpoint of transformers; its weights are renamed to Meta's when it is loaded.
        runtime: where the network runs.

    Raises:
        UserError: when it is loaded, the package is not installed, or the checkpoint is of another architecture.
    """

    def _network(self) -> Sam2Network:
        folder = self.weights.folder
        if not model_type(folder).startswith("sam2"):
            raise UserError(
                f"{folder}: is a {model_type(folder)!r} checkpoint, which Meta's sam2 package cannot run; "
                "choose a SAM 2 model or the implementation in transformers"
            )
        model = read_model(folder)
        network = MetaSam2(model.config, *read_statistics(folder))
        network.load_state_dict(to_meta(model.state_dict()))
        network.keep_places_precise()
        return network


class MetaSam2(Sam2Network):
    """SAM 2 for images of the modules of Meta's package, built from a configuration of transformers.

    Its weights have the names of Meta's checkpoints. The configurations of the published models give the networks that
    Meta's own ``sam2.1_hiera_t.yaml``, ``_s``, ``_b+`` and ``_l`` give.

    Args:
        config: a ``Sam2Config``.
        mean: of each colour channel, on a scale of 0–1.
        std: of each colour channel, on the same scale.

    Raises:
        UserError: the package ``sam2`` is not installed.
    """

    def __init__(self, config: Any, mean: list[float], std: list[float]) -> None:
        prompt, decoder = config.prompt_encoder_config, config.mask_decoder_config
        super().__init__(prompt.image_size, mean, std)
        require_sam2()
        from sam2.modeling.sam.mask_decoder import MaskDecoder
        from sam2.modeling.sam.prompt_encoder import PromptEncoder
        from sam2.modeling.sam.transformer import TwoWayTransformer

        side = prompt.image_size // prompt.patch_size
        self.image_encoder = _image_encoder(config.vision_config)
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=prompt.hidden_size,
            image_embedding_size=(side, side),
            input_image_size=(prompt.image_size, prompt.image_size),
            mask_in_chans=prompt.mask_input_channels,
        )
        self.sam_mask_decoder = MaskDecoder(
            transformer_dim=decoder.hidden_size,
            transformer=TwoWayTransformer(
                depth=decoder.num_hidden_layers,
                embedding_dim=decoder.hidden_size,
                num_heads=decoder.num_attention_heads,
                mlp_dim=decoder.mlp_dim,
                attention_downsample_rate=decoder.attention_downsample_rate,
            ),
            num_multimask_outputs=decoder.num_multimask_outputs,
            iou_head_depth=decoder.iou_head_depth,
            iou_head_hidden_dim=decoder.iou_head_hidden_dim,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=True,
            dynamic_multimask_via_stability=decoder.dynamic_multimask_via_stability,
            dynamic_multimask_stability_delta=decoder.dynamic_multimask_stability_delta,
            dynamic_multimask_stability_thresh=decoder.dynamic_multimask_stability_thresh,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
            use_multimask_token_for_obj_ptr=True,
        )
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, decoder.hidden_size))

    def keep_places_precise(self) -> None:
        """Have the places of prompts stay in float32; the weights have Meta's names no more."""
        self.sam_prompt_encoder = FullPrecision(self.sam_prompt_encoder)

    def features(self, pixels: torch.Tensor) -> Features:
        """Features of images."""
        # Meta's neck adds in float32, whatever its inputs are.
        fine, middle, coarse = (level.to(pixels.dtype) for level in self.image_encoder(pixels)["backbone_fpn"])
        decoder = self.sam_mask_decoder
        return decoder.conv_s0(fine), decoder.conv_s1(middle), coarse + self.no_mem_embed.reshape(1, -1, 1, 1)

    def masks(
        self, features: Features, points: torch.Tensor, labels: torch.Tensor, several: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask logits of prompts."""
        coarse = features[-1]
        sparse, dense = self.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
        logits, scores, *_ = self.sam_mask_decoder(
            image_embeddings=coarse,
            image_pe=self.sam_prompt_encoder.module.get_dense_pe().to(coarse.dtype),
            sparse_prompt_embeddings=sparse.to(coarse.dtype),
            dense_prompt_embeddings=dense.to(coarse.dtype),
            multimask_output=several,
            repeat_image=False,
            high_res_features=list(features[:-1]),
        )
        return logits, scores.float()

    def compile_halves(self) -> None:
        """Have torch compile the image encoder and the mask decoder."""
        self.image_encoder.compile(dynamic=False)
        self.sam_mask_decoder.compile(dynamic=False)


def require_sam2() -> None:
    """Import Meta's package.

    Raises:
        UserError: it is not installed.
    """
    try:
        from hydra import initialize_config_module
        from hydra.core.global_hydra import GlobalHydra

        # The package starts Hydra for a release whose behaviour Hydra 1.4 no longer offers, unless it runs already.
        if not GlobalHydra.instance().is_initialized():
            initialize_config_module("sam2")
        import sam2  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Meta's SAM 2 code is not installed; install it with `pip install 'al_dagster[sam2]'`, or choose the "
            "implementation in transformers"
        ) from error


def _image_encoder(vision: Any) -> nn.Module:
    """Meta's image encoder for a ``Sam2VisionConfig``."""
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine

    hiera = vision.backbone_config
    trunk = Hiera(
        embed_dim=hiera.hidden_size,
        num_heads=hiera.num_attention_heads_per_stage[0],
        q_pool=hiera.num_query_pool_stages,
        q_stride=tuple(hiera.query_stride),
        stages=tuple(hiera.blocks_per_stage),
        window_pos_embed_bkg_spatial_size=tuple(hiera.window_positional_embedding_background_size),
        window_spec=tuple(hiera.window_size_per_stage),
        global_att_blocks=tuple(hiera.global_attention_blocks),
    )
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=vision.fpn_hidden_size, warmup_cache=False),
        d_model=vision.fpn_hidden_size,
        backbone_channel_list=list(vision.backbone_channel_list),
        kernel_size=vision.fpn_kernel_size,
        stride=vision.fpn_stride,
        padding=vision.fpn_padding,
        fpn_interp_model="nearest",
        fpn_top_down_levels=list(vision.fpn_top_down_levels),
    )
    return ImageEncoder(trunk=trunk, neck=neck, scalp=len(vision.backbone_channel_list) - vision.num_feature_levels)
