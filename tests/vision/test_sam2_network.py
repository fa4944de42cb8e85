import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Sam2Model, Sam2VideoConfig, Sam2VideoModel

from al_dagster.core.errors import UserError
from al_dagster.vision.sam2 import Sam2Segmenter
from al_dagster.vision.torch_runtime import Runtime
from al_dagster.vision.weights import Weights, record

pytestmark = pytest.mark.usefixtures("one_thread")

BOXES = np.array([[10.0, 10, 60, 60], [5, 40.5, 100, 80], [80, 5, 110, 30]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    build = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "checkpoints_sam2.py"))
    folder = tmp_path_factory.mktemp("sam2")
    build["build_sam2"](folder, "tiny", seed=1)
    return folder


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(4).integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)


def weights_of(folder: Path) -> Weights:
    return record(folder, "tiny", origin="a test")


def test_in_bfloat16_masks_stay_and_places_of_prompts_are_exact(checkpoint, image, half_precision):
    precise = Sam2Segmenter(weights_of(checkpoint), Runtime("cpu"))
    half = Sam2Segmenter(weights_of(checkpoint), half_precision)
    masks = [one.segment([image], [BOXES])[0] for one in (precise, half)]
    # A mask near the stability threshold may be another of the decoder's in the other precision.
    shares = [
        (one.pixels & other.pixels).sum() / (one.pixels | other.pixels).sum() for one, other in zip(*masks, strict=True)
    ]
    assert np.median(shares) > 0.95
    assert half.network.decoder.iou_token.weight.dtype == torch.bfloat16
    for part in ("prompts", "places"):
        for one, other in zip(
            getattr(precise.network, part).buffers(), getattr(half.network, part).buffers(), strict=True
        ):
            assert torch.equal(one, other)


def test_a_video_checkpoint_of_the_published_kind_loads(checkpoint, tmp_path, image):
    plain = checkpoint
    config = json.loads((plain / "config.json").read_text())
    parts = {key: config[key] for key in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    memory = {
        "image_size": 128,
        "memory_attention_hidden_size": 32,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_attention_rope_feat_sizes": [8, 8],
        "memory_attention_num_layers": 1,
        "memory_encoder_hidden_size": 32,
        "memory_encoder_output_channels": 32,
        "mask_downsampler_embed_dim": 32,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 32,
    }
    video = Sam2VideoModel(Sam2VideoConfig(**parts, **memory))
    missing = video.load_state_dict(Sam2Model.from_pretrained(plain).state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert any(name.startswith("memory_") for name in missing.missing_keys)
    video.save_pretrained(tmp_path)
    shutil.copy(plain / "processor_config.json", tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam2_video"
    found = [
        Sam2Segmenter(weights_of(folder), Runtime("cpu")).segment([image], [BOXES])[0] for folder in (plain, tmp_path)
    ]
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(*found, strict=True))


def test_a_folder_that_is_no_checkpoint_of_sam_2_is_an_error_of_one_sentence(tmp_path, image):
    segmenter = Sam2Segmenter(weights_of(tmp_path), Runtime("cpu"))
    with pytest.raises(UserError, match=r"has no config\.json"):
        segmenter.segment([image], [BOXES])
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(UserError, match="is a 'dinov2' checkpoint"):
        segmenter.segment([image], [BOXES])
    (tmp_path / "config.json").write_text('{"model_type": "sam2"}')
    with pytest.raises(UserError, match="cannot be loaded"):
        segmenter.segment([image], [BOXES])
