"""The chain of every kind of thing, through a real registry and a real MLflow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from al_dagster.core.errors import UserError
from al_dagster.core.ids import frame_id, object_id
from al_dagster.core.project import ProjectConfig
from al_dagster.core.settings import Settings
from al_dagster.lineage import trace, trained_on
from al_dagster.media.inspection import inspect_file
from al_dagster.registry.batches import FileEntry, claim_files, record_run
from al_dagster.registry.database import open_registry
from al_dagster.registry.datasets import freeze_dataset, save_definition
from al_dagster.registry.labelling import LabelledObject, register_batch
from al_dagster.registry.projects import save_project
from al_dagster.registry.review import validate_objects
from al_dagster.registry.sources import register_frames, register_sources
from al_dagster.training.dataset import ExportedDataset
from al_dagster.training.tracking import Tracking

DEFINITION = {"name": "parts", "project": "parts", "split": {"train": 0.5, "val": 0.25, "test": 0.25}}


@dataclass(frozen=True)
class Made:
    settings: Settings
    sources: list[str]
    files: list[str]
    objects: list[str]
    dataset_id: str
    batch: str
    mlflow_run: str


def _registered(settings: Settings, folder: Path) -> tuple[list[str], list[str], list[str], str, str]:
    rng = np.random.default_rng(0)
    rows = []
    for name in ("a.png", "b.png"):
        blocks = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Pillow.fromarray(blocks).resize((96, 64), Pillow.Resampling.BICUBIC).save(folder / name)
        rows.append(inspect_file(folder / name, root=None, max_pixels=1_000_000))
    with open_registry(settings.database_url) as registry:
        save_project(registry, ProjectConfig(name="parts", classes=("nut",)))
        entries = [FileEntry(row["file_path"], row["size_bytes"], row["mtime_ns"]) for row in rows]
        (batch,) = claim_files(registry, "parts", entries, 256)
        register_sources(registry, batch, rows, 6)
        sources = [row["source_id"] for row in rows]
        frames = [
            {"frame_id": frame_id(key, 0), "source_id": key, "frame_idx": 0, "timestamp_ms": 0} for key in sources
        ]
        register_frames(registry, frames)
        box = (4.0, 5.0, 20.0, 15.0)
        objects = [
            LabelledObject(
                object_id("parts", key, 0, "detector", box),
                frame_id(key, 0),
                key,
                "nut",
                box,
                0.9,
                "detector@1",
                segmentation_model="segmenter@2",
            )
            for key in sources
        ]
        frame_ids = [frame["frame_id"] for frame in frames]
        register_batch(
            registry, project_id="parts", batch_key=batch, run_id="run-label", frame_ids=frame_ids, objects=objects
        )
        record_run(registry, batch, run_id="run-label", parameters={"models": {"detector": "detector@1"}})
        ids = [item.object_id for item in objects]
        validate_objects(registry, ids[:1], "ada")
        save_definition(registry, "parts", DEFINITION)
        save_definition(registry, "unbuilt", {**DEFINITION, "name": "unbuilt"})
        record = freeze_dataset(
            registry,
            name="parts",
            definition=DEFINITION,
            content_hash="c0ffee",
            run_id="run-freeze",
            assignments=[(ids[0], "train"), (ids[1], "test")],
        )
    return sources, [row["file_path"] for row in rows], ids, batch, record.dataset_id


def _trained(settings: Settings, folder: Path, dataset_id: str) -> str:
    tracking = Tracking(settings.tracking_uri, settings.artifacts_dir)
    export = ExportedDataset(folder, dataset_id, "parts", "1.0", "c0ffee", {"train": 1, "val": 0, "test": 1})
    run_id = tracking.start_run(export, params={"epochs": 1}, tags={"al.dagster_run_id": "run-train"}, run_name="parts")
    (folder / "best.pt").write_bytes(b"weights")
    tracking.log_file(run_id, folder / "best.pt", "weights")
    tracking.log_metrics(run_id, {"test_map50": 0.75})
    tracking.end_run(run_id)
    tracking.register(run_id, "parts")
    return run_id


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("lineage")
    settings = Settings(home=folder / "home")
    sources, files, objects, batch, dataset_id = _registered(settings, folder)
    return Made(settings, sources, files, objects, dataset_id, batch, _trained(settings, folder, dataset_id))


def _check_model(model: dict[str, Any], made: Made) -> None:
    assert model["id"] == "parts/1"
    assert model["mlflow_run_id"] == made.mlflow_run
    assert model["dagster_run_id"] == "run-train"
    assert model["test_map50"] == 0.75


def test_a_source_leads_to_its_objects_datasets_and_models(made: Made) -> None:
    chain = trace(made.settings, made.sources[0])
    assert (chain["kind"], chain["id"], chain["file_path"]) == ("source", made.sources[0], made.files[0])
    assert chain["made_from"]["files"] == {"count": 1, "first": [made.files[0]]}
    assert [item["object_id"] for item in chain["used_in"]["objects"]] == [made.objects[0]]
    assert [item["batch"] for item in chain["used_in"]["batches"]] == [made.batch]
    (dataset,) = chain["used_in"]["datasets"]
    assert (dataset["dataset_id"], dataset["split"], dataset["objects"]) == (made.dataset_id, "train", 1)
    (model,) = dataset["models"]
    _check_model(model, made)


def test_an_object_names_its_file_model_revisions_parameters_and_runs(made: Made) -> None:
    chain = trace(made.settings, made.objects[0])
    assert chain["dagster_run_id"] == "run-label"
    assert chain["bbox_xywh"] == [4, 5, 20, 15]
    made_from = chain["made_from"]
    assert made_from["source"]["file_path"] == made.files[0]
    assert made_from["models"] == {"detection_model": "detector@1", "segmentation_model": "segmenter@2"}
    assert made_from["review"]["validated_by"] == "ada"
    (batch,) = made_from["batches"]
    assert batch == {
        "batch": made.batch,
        "dagster_run_id": "run-label",
        "parameters": {"models": {"detector": "detector@1"}},
    }
    assert [(row["version"], row["split"]) for row in chain["used_in"]["datasets"]] == [("1.0", "train")]


@pytest.mark.parametrize("identifier", ["parts", "parts@1.0", "id"])
def test_a_dataset_names_its_files_hash_split_runs_and_models(made: Made, identifier: str) -> None:
    chain = trace(made.settings, made.dataset_id if identifier == "id" else identifier)
    assert (chain["kind"], chain["id"], chain["content_hash"]) == ("dataset", made.dataset_id, "c0ffee")
    assert chain["objects_by_split"] == {"test": 1, "train": 1}
    assert chain["dagster_run_id"] == "run-freeze"
    assert chain["made_from"]["files"] == {"count": 2, "first": sorted(made.files)}
    (models,) = chain["made_from"]["models"]
    assert (models["detection_model"], models["objects"]) == ("detector@1", 2)
    (model,) = chain["used_in"]["models"]
    _check_model(model, made)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_model_leads_back_through_its_dataset_to_the_files(made: Made, by_name: bool) -> None:
    chain = trace(made.settings, "parts/1" if by_name else made.mlflow_run)
    assert chain["kind"] == "model"
    _check_model(chain, made)
    assert chain["parameters"]["epochs"] == "1"
    dataset = chain["made_from"]["dataset"]
    assert (dataset["id"], dataset["content_hash"]) == (made.dataset_id, "c0ffee")
    assert dataset["made_from"]["files"]["first"] == sorted(made.files)


def test_the_runs_of_a_dataset_are_those_trained_on_it(made: Made) -> None:
    assert [run["run_id"] for run in trained_on(made.settings, made.dataset_id)] == [made.mlflow_run]
    assert trained_on(made.settings, "ds_aaaaaaaaaaaa") == []


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("src_aaaaaaaaaaaa", "no source"),
        ("obj_aaaaaaaaaaaa", "no object"),
        ("ds_aaaaaaaaaaaa", "not in the registry"),
        ("parts@9.9", "not in the registry"),
        ("unbuilt", "has no version yet: `al dataset build unbuilt`"),
        ("parts/9", "nothing has the id"),
        ("nonsense", "nothing has the id"),
    ],
)
def test_what_nothing_is_called_is_one_sentence(made: Made, identifier: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        trace(made.settings, identifier)


def test_without_a_training_mlflow_is_not_opened(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    sources, *_ = _registered(settings, tmp_path)
    assert trace(settings, sources[0])["used_in"]["datasets"][0]["models"] == []
    with pytest.raises(UserError, match="nothing has the id 'parts/1'"):
        trace(settings, "parts/1")
    assert not (tmp_path / "home" / "mlflow.db").exists()
