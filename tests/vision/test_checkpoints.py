import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Florence2ForConditionalGeneration, Sam2Model

from al_dagster.core.errors import UserError
from al_dagster.vision.checkpoints import read_network

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
KINDS = {"dinov2": AutoModel, "florence2": Florence2ForConditionalGeneration, "sam2": Sam2Model}


@pytest.fixture(params=KINDS)
def checkpoint(request, tmp_path):
    """A class and a tiny checkpoint of it."""
    build = runpy.run_path(str(BENCHMARKS / f"checkpoints_{request.param}.py"))[f"build_{request.param}"]
    build(tmp_path / "tiny", "tiny")
    return KINDS[request.param], tmp_path / "tiny"


def test_a_whole_checkpoint_is_read_in_full_precision_and_does_not_train(checkpoint):
    network = read_network(*checkpoint)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert not network.training


@pytest.mark.parametrize("damage", ["missing", "of another shape"])
def test_a_checkpoint_that_lacks_weights_is_refused_and_not_filled_with_random_ones(checkpoint, damage):
    kind, folder = checkpoint
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if name.endswith("norm.weight") or "norm1.weight" in name)
    if damage == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(len(tensors[name]) + 1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of the network's weights, such as .*norm.*; fetch the model again"):
        read_network(kind, folder)


def test_a_folder_without_weights_is_one_sentence(checkpoint):
    kind, folder = checkpoint
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"the checkpoint cannot be loaded: .*model\.safetensors"):
        read_network(kind, folder)
