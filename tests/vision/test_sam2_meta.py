import runpy
import shutil
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Sam2Config

from al_dagster.core.errors import UserError
from al_dagster.vision.sam2 import Sam2Segmenter
from al_dagster.vision.sam2_conversion import PLACES, to_meta
from al_dagster.vision.sam2_meta import MetaSam2, MetaSam2Segmenter, require_sam2
from al_dagster.vision.torch_runtime import Runtime
from al_dagster.vision.weights import record

pytestmark = pytest.mark.usefixtures("one_thread")

LARGEST_DIFFERENCE = 2e-5
"""Of a mask logit, between the two implementations, in float32; logits are up to about 30."""

BUILDERS = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "checkpoints_sam2.py"))


@pytest.fixture(scope="module", params=[0, 1])
def weights(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam2")
    BUILDERS["build_sam2"](folder, "tiny", seed=request.param)
    return record(folder, "tiny", origin="a test")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (9, 12, 3), dtype=np.uint8).repeat(scale, 0).repeat(scale, 1) for scale in (10, 14)]


BOXES = [np.array([[10.0, 10, 60, 60], [5, 40.5, 100, 80]]), np.array([[0.0, 0, 168, 126]])]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("labels", [[2, 3], [1, 0], [1]])
def test_with_the_same_weights_both_implementations_give_the_same_logits(weights, several, labels):
    own, metas = (kind(weights, Runtime("cpu")).network for kind in (Sam2Segmenter, MetaSam2Segmenter))
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn((3, 3, 128, 128), generator=generator)
    points = 128 * torch.rand((3, len(labels), 2), generator=generator)
    which = torch.tensor([labels] * 3, dtype=torch.int32)
    with torch.inference_mode():
        found = [network.masks(network.features(pixels), points, which, several) for network in (own, metas)]
    (logits, scores), (other_logits, other_scores) = found
    assert logits.shape == other_logits.shape == (3, 3 if several else 1, 32, 32)
    assert logits.abs().max() > 1
    assert (logits - other_logits).abs().max() < LARGEST_DIFFERENCE
    assert (scores - other_scores).abs().max() < 1e-6


def test_with_the_same_weights_both_segmenters_give_the_same_masks(weights, images):
    points, on = [np.array([[[30.0, 30]]]), np.array([[[100.0, 90]]])], [np.ones((1, 1), int)] * 2
    own, metas = (kind(weights, Runtime("cpu")) for kind in (Sam2Segmenter, MetaSam2Segmenter))
    assert own.revision != metas.revision
    for one, other in (
        (own.segment(images, BOXES), metas.segment(images, BOXES)),
        (own.segment_points(images, points, on), metas.segment_points(images, points, on)),
    ):
        for mask, same in zip(chain(*one), chain(*other), strict=True):
            assert (mask.x, mask.y) == (same.x, same.y)
            assert (mask.pixels != same.pixels).mean() < 0.001
            assert mask.score == pytest.approx(same.score, abs=1e-5)


def test_it_runs_in_bfloat16(weights, images, half_precision):
    masks = MetaSam2Segmenter(weights, half_precision).segment(images, BOXES)
    assert [len(of_image) for of_image in masks] == [2, 1]


@pytest.mark.filterwarnings("ignore:hydra.utils.instantiate:UserWarning")
@pytest.mark.parametrize(
    ("config", "hiera"),
    [
        ("sam2.1_hiera_b+", BUILDERS["HIERA"]["full"]),
        ("sam2.1_hiera_t", {"window_positional_embedding_background_size": [7, 7]}),
    ],
)
def test_published_configurations_give_the_network_of_metas_own(config, hiera):
    require_sam2()
    from sam2.build_sam import build_sam2

    channels = hiera.get("embed_dim_per_stage", [96, 192, 384, 768])[::-1]
    vision = {"backbone_config": {"model_type": "sam2_hiera_det_model", **hiera}, "backbone_channel_list": channels}
    with torch.device("meta"):
        network = MetaSam2(Sam2Config(vision_config=vision), [0.0] * 3, [1.0] * 3)
        published = build_sam2(f"configs/sam2.1/{config}.yaml", device="meta")
    shapes = {name: tensor.shape for name, tensor in published.state_dict().items()}
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert own == {name: shapes[name] for name in own}
    parts = ("image_encoder.", "sam_prompt_encoder.", "sam_mask_decoder.")
    assert {name for name in shapes if name.startswith(parts)} == own.keys() - {"no_mem_embed"}


def test_different_frequencies_for_prompts_and_image_are_refused(weights):
    tensors = load_file(weights.folder / "model.safetensors")
    with pytest.raises(ValueError, match="differ"):
        to_meta(tensors | {PLACES: tensors[PLACES] + 1})


def test_without_the_package_the_error_names_the_extra(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "sam2", None)
    with pytest.raises(UserError, match=r"al_dagster\[sam2\]"):
        MetaSam2Segmenter(weights, Runtime("cpu")).load()


def test_weights_that_were_replaced_before_they_are_loaded_are_refused(weights, tmp_path):
    folder = shutil.copytree(weights.folder, tmp_path / "sam2")
    segmenter = MetaSam2Segmenter(record(folder, "tiny", origin="a test"), Runtime("cpu"))
    (folder / "notes.txt").write_text("another release")
    record(folder, "tiny", origin="a test")
    with pytest.raises(UserError, match="model tiny was replaced during this run"):
        segmenter.load()


def test_an_edgetam_checkpoint_is_refused(tmp_path):
    BUILDERS["build_edgetam"](tmp_path, "tiny")
    with pytest.raises(UserError, match="'edgetam' checkpoint, which Meta's sam2 package cannot run"):
        MetaSam2Segmenter(record(tmp_path, "edgetam", origin="a test"), Runtime("cpu")).load()
