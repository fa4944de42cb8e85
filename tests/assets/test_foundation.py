"""The whole graph with the foundation profile, on tiny checkpoints in the format of the published ones."""

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from al_dagster.assets.partitions import datasets
from al_dagster.core.errors import UserError
from al_dagster.core.project import ModelsConfig, ProjectConfig
from al_dagster.core.settings import load_settings
from al_dagster.datasets.definition import parse_definition
from al_dagster.labelling import models
from al_dagster.labelling.labels import detector_prompts
from al_dagster.registry.database import open_registry
from al_dagster.registry.datasets import save_definition
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vision import sam2_proposals
from al_dagster.vision.fetch import fetch
from al_dagster.vision.sam2_proposals import ProposalFilters

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FLORENCE2, SAM2, DINOV2 = "florence-2-large", "sam2.1-hiera-base-plus", "dinov2-base"
PICTURES = 4


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name: str) -> dict:
    return runpy.run_path(str(BENCHMARKS / f"checkpoints_{name}.py"))


def answer(image: np.ndarray, name: str) -> str:
    """What Florence-2 says of a picture that shows one disc (red) and one bar (blue): label and corners in bins."""
    channel = {"disc": 0, "bar": 2}[name]
    others = image[..., [other for other in range(3) if other != channel]].max(axis=2)
    rows, columns = np.nonzero(image[..., channel].astype(int) - others > 60)
    height, width = image.shape[:2]
    x1, x2 = columns.min() / width, (columns.max() + 1) / width
    y1, y2 = rows.min() / height, (rows.max() + 1) / height
    return name + "".join(f"<loc_{min(999, int(value * 1000))}>" for value in (x1, y1, x2, y2))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, shapes) -> Path:
    """Three checkpoints; Florence-2 knows the discs and bars of the pictures that the tests label."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tools = build("florence2")
    tools["build_florence2"](folder / FLORENCE2, "tiny")
    images = [shapes(seed) for seed in range(PICTURES)]
    lessons = [(image, name, answer(image, name)) for image in images for name in ("disc", "bar")]
    tools["teach_florence2"](folder / FLORENCE2, lessons)
    build("sam2")["build_sam2"](folder / SAM2, "tiny")
    build("sam2")["build_sam2"](folder / "another sam2", "tiny", seed=1)
    build("dinov2")["build_dinov2"](folder / DINOV2, "tiny")
    return folder


@pytest.fixture(scope="module")
def driver() -> Iterator[subprocess.Popen]:
    """A process that labels batches and is killed on the way; see ``kill_driver``."""
    file = Path(__file__).with_name("kill_driver.py")
    with subprocess.Popen(
        [sys.executable, file, "foundation"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def installed(checkpoints, home, monkeypatch) -> Path:
    """The folder of models of a home, with the three checkpoints."""
    monkeypatch.setenv("AL_DEVICE", "cpu")
    for name in (FLORENCE2, SAM2, DINOV2):
        fetch(name, models_dir=home.settings.models_dir, source=checkpoints / name)
    return home.settings.models_dir


def foundation(home) -> ProjectConfig:
    return home.project(profile="foundation", support=None)


def test_the_foundation_profile_labels_what_is_named_and_indexes_it(bench, installed):
    (key,) = bench.claim(bench.home.pictures(PICTURES), foundation(bench.home))
    result = bench.run(key, checks=True)
    assert result.success
    found = sorted((row["category"], round(row["bbox_x"])) for row in bench.objects().values())
    assert [category for category, _ in found] == ["bar"] * PICTURES + ["disc"] * PICTURES
    for row in bench.objects().values():
        assert row["detection_model"].startswith(f"{FLORENCE2}@")
        assert row["confidence"] == pytest.approx(row["p_label"] * row["p_box"], abs=1e-5)
        assert row["calibrated_confidence"] is None
        assert (bench.home.settings.masks_dir / row["mask_path"]).exists()
    (version,) = {row["embedding_version"] for row in bench.objects().values()}
    assert version.startswith("dinov2_base_v1_")
    with ChromaStore(bench.home.settings.chroma_dir, version, 32) as store:
        assert set(store.ids()) == set(bench.objects())
    assert all(check.passed for check in result.get_asset_check_evaluations())


def test_its_labels_become_a_dataset_and_a_model_that_labels_in_its_turn(bench, installed):
    bench.home.settings.duplicate_distance = 0  # the drawn pictures are much alike
    (key,) = bench.claim(bench.home.pictures(PICTURES), foundation(bench.home))
    bench.run(key)
    definition = {
        "name": "shapes",
        "project": "shapes",
        "split": {"train": 0.7, "val": 0.0, "test": 0.3},
        "training": {"model": "yolo11n.yaml", "epochs": 1, "imgsz": 64, "batch": 2, "device": "cpu"},
    }
    with open_registry(bench.home.settings.database_url) as registry:
        save_definition(registry, "shapes", parse_definition(definition, "the test").model_dump(mode="json"))
    bench.instance.add_dynamic_partitions(str(datasets.name), ["shapes"])
    made = ("dataset", "dataset_export", "trained_model", "evaluation")
    trained = bench.run("shapes", only=made, checks=True)
    assert trained.success
    assert bench.metadata(trained, "evaluation")["split"] == "test"
    student = foundation(bench.home).model_copy(
        update={"models": ModelsConfig(detector="yolo", weights="model:shapes")}
    )
    with models.project_models(student, models.environment(load_settings())) as built:
        assert built.detector.model_id == "yolo-shapes"
        built.detector.check_prompts(detector_prompts(student))


def test_nothing_is_computed_again_when_nothing_has_changed(bench, installed):
    (key,) = bench.claim(bench.home.pictures(PICTURES), foundation(bench.home))
    bench.run(key)
    before = bench.objects()
    bench.run(key)
    assert dict(bench.calls) == {}
    assert bench.objects() == before


def test_another_segmenter_makes_new_masks_and_vectors_and_no_new_boxes(bench, installed, checkpoints):
    (key,) = bench.claim(bench.home.pictures(PICTURES), foundation(bench.home))
    bench.run(key)
    before = bench.objects()
    shutil.rmtree(installed / SAM2)
    fetch(SAM2, models_dir=installed, source=checkpoints / "another sam2")
    bench.run(key)
    assert set(bench.calls) == {"segment", "embed"}
    after = bench.objects()
    assert set(after) == set(before)
    assert all(after[name]["mask_path"] != before[name]["mask_path"] for name in before)


def test_classes_with_examples_are_proposed_by_the_segmenter_and_named_by_their_pictures(bench, installed, monkeypatch):
    # Random weights are sure of nothing.
    unsure = partial(ProposalFilters, points_per_side=4, least_iou=-100.0, least_stability=0.0)
    monkeypatch.setattr(sam2_proposals, "ProposalFilters", unsure)
    project = bench.home.project(profile="foundation", classification={"threshold": -1.0})
    (key,) = bench.claim(bench.home.pictures(1), project)
    bench.run(key)
    assert set(bench.calls) == {"detect", "segment", "embed"}
    detector = models.project_models(project, models.environment(load_settings())).detector
    assert detector.model_id == f"{SAM2}-proposals"
    assert {row["category"] for row in bench.objects().values()} <= {"disc", "bar"}
    assert bench.objects()


@pytest.mark.parametrize("call", ["detect", "segment", "embed"])
def test_a_run_that_was_killed_within_a_model_call_and_runs_again_ends_as_an_undisturbed_one(
    bench, installed, driver, call
):
    (key,) = bench.claim(bench.home.pictures(PICTURES), foundation(bench.home))

    def obey(kill: list | None) -> int:
        command = {"do": "run", "home": str(bench.home.path), "key": key, "kill": kill}
        driver.stdin.write(json.dumps(command) + "\n")
        driver.stdin.flush()
        return json.loads(driver.stdout.readline())["exit"]

    assert obey([f"model:{call}", 2]) == -9
    assert obey(None) == 0
    recovered = {name: row["mask_path"] for name, row in bench.objects().items()}
    assert len(recovered) == 2 * PICTURES
    shutil.rmtree(bench.home.settings.lake)
    bench.run(key)
    assert {name: row["mask_path"] for name, row in bench.objects().items()} == recovered


def test_missing_weights_are_one_sentence_with_the_command_that_fetches_them(home, monkeypatch):
    monkeypatch.setenv("AL_DEVICE", "cpu")
    everything = f"{FLORENCE2} {SAM2} {DINOV2}"
    with pytest.raises(UserError, match=rf"are not in .*`al models fetch {everything}` gets them \(about 2.2 GB\)$"):
        models.project_models(foundation(home), models.environment(load_settings()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_one_sentence_with_what_to_do(installed, home, monkeypatch):
    monkeypatch.delenv("AL_DEVICE")
    with pytest.raises(UserError, match=r"these models need a GPU, and torch sees none: .* AL_DEVICE=cpu"):
        models.project_models(foundation(home), models.environment(home.settings))
