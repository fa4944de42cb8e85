import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoImageProcessor, AutoModel

from al_dagster.core.errors import UserError
from al_dagster.vision import dinov2
from al_dagster.vision.crops import crop_object
from al_dagster.vision.dinov2 import DinoV2Embedder
from al_dagster.vision.fetch import fetch
from al_dagster.vision.torch_runtime import Runtime
from al_dagster.vision.weights import Weights

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 56
CHECKPOINTS = Path(__file__).parents[2] / "benchmarks" / "checkpoints_dinov2.py"
Crops = list[NDArray[np.uint8]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A tiny checkpoint, installed as dinov2-base."""
    folder = tmp_path_factory.mktemp("checkpoint")
    runpy.run_path(str(CHECKPOINTS))["build_dinov2"](folder, "tiny")
    return fetch("dinov2-base", models_dir=tmp_path_factory.mktemp("models"), source=folder).weights


@pytest.fixture
def embedder(weights: Weights) -> DinoV2Embedder:
    return DinoV2Embedder(weights, Runtime("cpu"), "dinov2_base_v1")


@pytest.fixture(scope="module")
def crops() -> Crops:
    """Crops of drawn objects of many sizes, two of them of the same, one of a single pixel."""
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    sizes = [(1, 1), (9, 4), (30, 47), (47, 30), (56, 56), (120, 200), (240, 90)]
    return [crop_object(image, np.array([7, 5, 7 + width, 5 + height])) for width, height in sizes]


def _reference(weights: Weights, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    processor = AutoImageProcessor.from_pretrained(weights.folder)
    model = AutoModel.from_pretrained(weights.folder).eval()
    inputs = processor(
        torch.from_numpy(crop).permute(2, 0, 1),
        do_center_crop=False,
        size={"height": SIDE, "width": SIDE},
        input_data_format="channels_first",
        return_tensors="pt",
    )
    with torch.no_grad():
        vector = model(**inputs).pooler_output[0].numpy()
    return vector / np.linalg.norm(vector)


def test_vectors_are_the_library_s_own_of_each_crop(weights: Weights, embedder: DinoV2Embedder, crops: Crops) -> None:
    vectors = embedder.embed(crops)
    assert vectors.shape == (len(crops), 32)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    expected = np.stack([_reference(weights, crop) for crop in crops])
    assert (np.sum(vectors * expected, axis=1) >= 0.9999).all()
    # The crops do not look alike to it, so that agreement says something.
    assert np.sum(vectors[0] * vectors[5]) < 0.99


def test_a_batch_gives_what_single_calls_give(
    embedder: DinoV2Embedder, crops: Crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = embedder.embed(crops)
    single = np.concatenate([embedder.embed([crop]) for crop in crops])
    assert (np.sum(together * single, axis=1) >= 0.9999).all()
    monkeypatch.setattr(dinov2, "TRANSFER_BYTES", 20_000)
    assert np.array_equal(embedder.embed(crops), together)


def test_the_whole_crop_is_seen_up_to_its_corners(embedder: DinoV2Embedder) -> None:
    plain = np.full((64, 64, 3), 127, dtype=np.uint8)
    marked = plain.copy()
    marked[:6, :6] = (255, 0, 0)
    a, b = embedder.embed([plain, marked])
    assert np.sum(a * b) < 0.9999


def test_no_crops_give_no_vectors_and_load_nothing(embedder: DinoV2Embedder) -> None:
    assert embedder.embed([]).shape == (0, 32)
    assert embedder._module is None


def test_an_unloaded_model_loads_again_and_gives_the_same(embedder: DinoV2Embedder, crops: Crops) -> None:
    before = embedder.embed(crops)
    embedder.unload()
    assert embedder._module is None
    assert np.array_equal(embedder.embed(crops), before)


def test_half_precision_points_the_same_way(
    weights: Weights, embedder: DinoV2Embedder, crops: Crops, half_precision: Runtime
) -> None:
    half = DinoV2Embedder(weights, half_precision, "dinov2_base_v1")
    vectors = half.embed(crops)
    assert next(half.module.parameters()).dtype == torch.bfloat16
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (np.sum(vectors * embedder.embed(crops), axis=1) >= 0.999).all()


def test_batches_of_a_compiled_model_are_padded_and_give_the_same(
    weights: Weights, embedder: DinoV2Embedder, crops: Crops
) -> None:
    compiled = DinoV2Embedder(weights, Runtime("cpu", compile=True), "dinov2_base_v1")
    seen = []
    compiled.module.register_forward_pre_hook(
        lambda module, args, named: seen.append(len(named["pixel_values"])), with_kwargs=True
    )
    with torch.compiler.set_stance("force_eager"):
        vectors = compiled.embed(crops)
    assert seen == [8]
    assert (np.sum(vectors * embedder.embed(crops), axis=1) >= 0.9999).all()


def test_running_out_of_memory_loses_no_crop(
    embedder: DinoV2Embedder, crops: Crops, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = embedder.embed(crops)
    vectors: Callable = embedder._vectors

    def small_memory(some: Crops) -> torch.Tensor:
        if len(some) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return vectors(some)

    monkeypatch.setattr(embedder, "_vectors", small_memory)
    assert np.allclose(embedder.embed(crops), expected, atol=1e-5)


def test_other_weights_are_another_revision_of_the_same_version(weights: Weights, tmp_path: Path) -> None:
    runpy.run_path(str(CHECKPOINTS))["build_dinov2"](tmp_path / "other", "tiny", seed=1)
    other = fetch("dinov2-base", models_dir=tmp_path / "models", source=tmp_path / "other").weights
    first, second = (DinoV2Embedder(each, Runtime("cpu"), "dinov2_base_v1") for each in (weights, other))
    assert first.revision.startswith(weights.revision)
    assert first.revision != second.revision
    assert (first.version_id, first.model_id, first.dimension) == (second.version_id, second.model_id, 32)
    assert first.groups == (32,)


def test_the_full_checkpoint_has_the_shape_of_the_real_one(tmp_path: Path) -> None:
    scales = runpy.run_path(str(CHECKPOINTS))["SCALES"]
    from transformers import Dinov2Config, Dinov2Model

    with torch.device("meta"):
        model = Dinov2Model(Dinov2Config(patch_size=14, **scales["full"]))
    assert sum(parameter.numel() for parameter in model.parameters()) == 86_580_480


def test_weights_that_were_replaced_before_they_are_loaded_are_refused(
    weights: Weights, crops: Crops, tmp_path: Path
) -> None:
    installed = fetch("dinov2-base", models_dir=tmp_path / "models", source=weights.folder).weights
    embedder = DinoV2Embedder(installed, Runtime("cpu"), "dinov2_base_v1")
    again = DinoV2Embedder(installed, Runtime("cpu"), "dinov2_base_v1")
    again.load()
    runpy.run_path(str(CHECKPOINTS))["build_dinov2"](tmp_path / "other", "tiny", seed=1)
    fetch("dinov2-base", models_dir=tmp_path / "models", source=tmp_path / "other")
    with pytest.raises(UserError, match="model dinov2-base was replaced during this run"):
        embedder.embed(crops)
    assert again.embed(crops).shape == (len(crops), again.dimension)
    again.unload()
    with pytest.raises(UserError, match="model dinov2-base was replaced during this run"):
        again.embed(crops)
