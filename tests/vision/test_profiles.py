import importlib.util
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from al_dagster.core.errors import UserError
from al_dagster.core.project import PROPOSAL, ModelsConfig
from al_dagster.vision.catalog import CATALOG
from al_dagster.vision.crops import crop_object
from al_dagster.vision.detector import OpenCvDetector
from al_dagster.vision.fetch import fetch
from al_dagster.vision.grabcut import GrabCutSegmenter
from al_dagster.vision.hog_color import HogColorEmbedder
from al_dagster.vision.profiles import (
    Environment,
    build_embedding_models,
    build_models,
    embedding_version,
)
from al_dagster.vision.protocols import Prompt
from al_dagster.vision.weights import MANIFEST, Weights, find

CHECKPOINTS = Path(__file__).parents[2] / "benchmarks" / "checkpoints_dinov2.py"
NAMED, PROPOSALS = [Prompt("nut")], [Prompt(PROPOSAL)]


@pytest.fixture
def machine(tmp_path):
    return Environment(models_dir=tmp_path / "models", scratch_dir=tmp_path / "scratch", device="cpu")


def test_every_model_of_the_embedded_profile_says_what_it_is(machine):
    with build_models("embedded", ModelsConfig(), [Prompt(PROPOSAL)], machine) as models:
        for model in (models.detector, models.segmenter, models.embedder):
            assert model.model_id
            assert len(model.revision) >= 8


def test_an_unknown_profile_is_refused_with_the_known_ones(machine):
    with pytest.raises(UserError, match=r"no profile 'gigantic'.*embedded"):
        build_models("gigantic", ModelsConfig(), [Prompt("nut")], machine)


def test_the_embedded_profile_goes_from_an_image_to_vectors(tabletop, machine):
    with build_models("embedded", ModelsConfig(), [Prompt(PROPOSAL)], machine) as models:
        found = models.detector.detect([tabletop], [Prompt(PROPOSAL)])[0]
        masks = models.segmenter.segment([tabletop], [found.xyxy])[0]
        crops = [crop_object(tabletop, box, mask) for box, mask in zip(found.xyxy, masks, strict=True)]
        assert models.embedder.embed(crops).shape == (len(found), models.embedder.dimension)


def test_the_embedded_profile_does_not_import_torch():
    code = (
        "import sys; from pathlib import Path; from al_dagster.core.project import ModelsConfig; "
        "from al_dagster.vision.profiles import Environment, build_models; "
        "build_models('embedded', ModelsConfig(), (), Environment(Path(), Path())); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'ultralytics')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def with_dinov2(tmp_path_factory) -> Path:
    """A folder of models with a tiny checkpoint as dinov2-small."""
    import torch

    torch.set_num_threads(1)
    checkpoint, models_dir = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("models")
    runpy.run_path(str(CHECKPOINTS))["build_dinov2"](checkpoint, "tiny")
    fetch("dinov2-small", models_dir=models_dir, source=checkpoint)
    return models_dir


@pytest.fixture
def trained(machine, tmp_path):
    """A machine where one model was trained, and the datasets that it is asked about."""
    asked: list[str] = []
    file = tmp_path / "best.pt"
    file.write_bytes(b"weights")

    def find(dataset: str) -> Path:
        asked.append(dataset)
        return file

    return replace(machine, trained_weights=find), asked


@pytest.mark.parametrize("prompts", [NAMED, PROPOSALS, [*NAMED, *PROPOSALS]])
@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("detector", "florence-9"),
        ("detector", "dinov2-base"),
        ("detector", "grabcut"),
        ("segmenter", "sam9"),
        ("segmenter", "florence-2-base"),
        ("embedder", "dinov9"),
        ("embedder", "edgetam"),
        ("embedder", "yolo"),
    ],
)
def test_a_model_that_is_none_of_its_role_is_one_sentence_that_lists_the_known_ones(machine, role, name, prompts):
    others = {"detector": ["opencv", "yolo"], "segmenter": ["grabcut"], "embedder": ["hog-color"]}[role]
    known = ", ".join([*others, *(card.name for card in CATALOG.values() if card.role == role)])
    with pytest.raises(UserError) as raised:
        build_models("embedded", ModelsConfig(**{role: name}), prompts, machine)
    assert str(raised.value) == f"there is no {role} {name!r}; the {role}s are {known}"


@pytest.mark.parametrize(
    ("role", "name"), [("detector", "florence-2-base"), ("segmenter", "edgetam"), ("embedder", "dinov2-small")]
)
def test_a_model_that_is_not_installed_is_one_sentence_that_says_how_to_get_it(machine, role, name):
    with pytest.raises(UserError, match=rf"^model {name} is not in .*; `al models fetch {name}` gets it"):
        build_models("embedded", ModelsConfig(**{role: name}), NAMED if role == "detector" else PROPOSALS, machine)


@pytest.mark.parametrize(
    ("prompts", "missing"),
    [
        (NAMED, ["florence-2-large", "sam2.1-hiera-base-plus", "dinov2-base"]),
        ([*NAMED, *PROPOSALS], ["florence-2-large", "sam2.1-hiera-base-plus", "dinov2-base"]),
        # Nothing is asked for by name.
        (PROPOSALS, ["sam2.1-hiera-base-plus", "dinov2-base"]),
    ],
)
def test_all_the_models_that_are_missing_are_named_at_once(machine, prompts, missing):
    with pytest.raises(UserError, match=rf"; `al models fetch {' '.join(missing)}` gets them \(about [0-9.]+ GB\)$"):
        build_models("foundation", ModelsConfig(), prompts, machine)


def test_without_the_foundation_extra_the_sentence_says_how_to_install_it(machine, monkeypatch):
    found = importlib.util.find_spec

    def without_timm(name, package=None):
        return None if name == "timm" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_timm)
    with pytest.raises(UserError, match=r"the 'foundation' extra: pip install 'al_dagster\[foundation\]'"):
        build_models("embedded", ModelsConfig(embedder="dinov2-small"), PROPOSALS, machine)
    with build_models("embedded", ModelsConfig(), PROPOSALS, machine) as models:
        assert models.embedder.version_id == HogColorEmbedder().version_id


def test_the_yolo_detector_needs_weights(machine):
    with pytest.raises(UserError, match=r"^the detector yolo needs weights: a file, or model:<dataset>"):
        build_models("embedded", ModelsConfig(detector="yolo"), NAMED, machine)


def test_a_yolo_file_that_is_not_there_or_may_not_be_read_is_one_sentence(machine, tmp_path):
    overrides = ModelsConfig(detector="yolo", weights=str(tmp_path / "parts.pt"))
    with pytest.raises(UserError, match=r"parts\.pt"):
        build_models("embedded", overrides, NAMED, machine)
    (tmp_path / "parts.pt").write_bytes(b"weights")
    with pytest.raises(UserError, match="pickle"):
        build_models("embedded", overrides, NAMED, machine)
    allowed = overrides.model_copy(update={"allow_pickle": True})
    assert build_models("embedded", allowed, NAMED, machine).detector.model_id == "yolo-parts"


def test_yolo_shares_the_memory_budget_of_the_other_models(trained, with_dinov2):
    machine = replace(trained[0], models_dir=with_dinov2, max_vram_gb=2.0)
    overrides = ModelsConfig(detector="yolo", weights="model:bolts", embedder="dinov2-small")
    models = build_models("embedded", overrides, NAMED, machine)
    assert models.detector.runtime is models.embedder.runtime
    assert models.detector.resident.max_bytes == 2 * 2**30


def test_yolo_alone_needs_neither_a_gpu_nor_the_foundation_extra(trained, monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU")
    monkeypatch.setitem(sys.modules, "transformers", None)
    overrides = ModelsConfig(detector="yolo", weights="model:bolts")
    models = build_models("embedded", overrides, NAMED, replace(trained[0], device="auto"))
    assert models.detector.resident.device == "cpu"


def test_without_the_train_extra_the_sentence_says_how_to_install_it(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(UserError, match=r"YOLO models need the 'train' extra: pip install 'al_dagster\[train\]'"):
        build_models("embedded", ModelsConfig(detector="yolo", weights="model:bolts"), NAMED, trained[0])


def test_a_model_that_was_trained_here_is_looked_up_by_its_dataset(trained):
    machine, asked = trained
    models = build_models("embedded", ModelsConfig(detector="yolo", weights="model:bolts"), NAMED, machine)
    assert asked == ["bolts"]
    assert models.detector.model_id == "yolo-bolts"


def test_a_machine_that_knows_no_trained_models_says_so(machine):
    with pytest.raises(UserError, match=r"^model:bolts cannot be looked up here$"):
        build_models("embedded", ModelsConfig(detector="yolo", weights="model:bolts"), NAMED, machine)


def test_proposals_and_named_classes_each_go_to_the_detector_for_them(trained):
    machine, _ = trained
    overrides = ModelsConfig(detector="yolo", weights="model:bolts")
    both = build_models("embedded", overrides, [*PROPOSALS, *NAMED], machine)
    assert both.detector.model_id == f"yolo-bolts+{OpenCvDetector.model_id}"
    alone = build_models("embedded", overrides, PROPOSALS, machine)
    assert alone.detector.model_id == OpenCvDetector.model_id


def test_an_embedding_version_is_another_for_each_content_of_the_weights(tmp_path):
    card = CATALOG["dinov2-base"]
    listed = Weights(card.name, tmp_path, "0123456789ab", card.commit, 1)
    assert embedding_version(listed) == "dinov2_base_v1_012345"
    assert embedding_version(replace(listed, commit="f" * 40)) == "dinov2_base_v1_012345"
    assert embedding_version(replace(listed, revision="ba9876543210")) == "dinov2_base_v1_ba9876"


def test_a_project_may_put_one_model_in_the_place_of_the_profile_s(tabletop, disc_and_bar, machine, with_dinov2):
    machine = replace(machine, models_dir=with_dinov2)
    with build_models("embedded", ModelsConfig(embedder="dinov2-small"), PROPOSALS, machine) as models:
        assert models.detector.model_id == OpenCvDetector.model_id
        assert (models.embedder.model_id, models.embedder.dimension) == ("dinov2-small", 32)
        assert models.embedder.version_id == embedding_version(find("dinov2-small", with_dinov2))
        masks = models.segmenter.segment([tabletop], [disc_and_bar])[0]
        crops = [crop_object(tabletop, box, mask) for box, mask in zip(disc_and_bar, masks, strict=True)]
        vectors = models.embedder.embed(crops)
        assert vectors.shape == (2, 32)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_the_models_of_an_embedding_version_are_found_by_what_is_installed(machine, with_dinov2):
    embedded = build_embedding_models(HogColorEmbedder().version_id, machine)
    assert embedded is not None
    assert embedded.embedder.version_id == HogColorEmbedder().version_id
    assert build_embedding_models(HogColorEmbedder("4.0.0").version_id, machine) is None
    assert build_embedding_models("dinov2_small_v1", machine) is None
    machine = replace(machine, models_dir=with_dinov2)
    assert build_embedding_models("dinov2_small_v1", machine) is None
    own = build_models("embedded", ModelsConfig(embedder="dinov2-small"), PROPOSALS, machine).embedder.version_id
    found = build_embedding_models(own, machine)
    assert found is not None
    assert (found.embedder.version_id, found.segmenter.model_id) == (own, GrabCutSegmenter.model_id)


def test_pictures_are_cut_out_by_sam_2_where_it_is_installed(machine, with_dinov2, tmp_path):
    models_dir = shutil.copytree(with_dinov2, tmp_path / "models")
    runpy.run_path(str(CHECKPOINTS.with_name("checkpoints_sam2.py")))["build_sam2"](tmp_path / "sam2", "tiny")
    fetch("sam2.1-hiera-base-plus", models_dir=models_dir, source=tmp_path / "sam2")
    own = embedding_version(find("dinov2-small", models_dir))
    found = build_embedding_models(own, replace(machine, models_dir=models_dir))
    assert found is not None
    assert (found.embedder.version_id, found.segmenter.model_id) == (own, "sam2.1-hiera-base-plus")


@pytest.mark.parametrize("harmed", ["config.json", MANIFEST])
def test_a_damaged_embedder_is_in_the_way_of_its_own_version_alone(machine, with_dinov2, tmp_path, harmed):
    models_dir = shutil.copytree(with_dinov2, tmp_path / "models")
    changed = shutil.copytree(with_dinov2 / "dinov2-small", tmp_path / "changed")
    (changed / MANIFEST).unlink()
    (changed / "notes.txt").write_text("trained on")
    bystander = fetch("dinov2-base", models_dir=models_dir, source=changed).weights
    (bystander.folder / harmed).write_text("")
    machine = replace(machine, models_dir=models_dir)
    assert build_embedding_models("some_version_never_made", machine) is None
    own = embedding_version(find("dinov2-small", models_dir))
    found = build_embedding_models(own, machine)
    assert found is not None
    assert found.embedder.version_id == own
    if harmed != MANIFEST:
        with pytest.raises(UserError, match=r"model dinov2-base in .* is damaged: config\.json"):
            build_embedding_models(embedding_version(bystander), machine)


def test_models_in_torch_need_a_gpu_unless_the_cpu_is_named(machine, with_dinov2):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA GPU")
    overrides = ModelsConfig(embedder="dinov2-small")
    for device, sentence in (("auto", "need a GPU, .* or set AL_DEVICE=cpu"), ("cuda", "but torch sees 0 GPUs")):
        with pytest.raises(UserError, match=sentence):
            build_models("embedded", overrides, PROPOSALS, replace(machine, models_dir=with_dinov2, device=device))
