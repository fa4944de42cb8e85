"""The demonstration end to end: two projects, labelled; a dataset, a model, and how good both are."""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from al_dagster.assets.partitions import batches, datasets
from al_dagster.core.files import write_whole
from al_dagster.core.project import ProjectConfig, parse_project
from al_dagster.core.settings import Settings
from al_dagster.datasets.definition import parse_definition
from al_dagster.demo.parts import CLASSES
from al_dagster.demo.people import collect_people
from al_dagster.demo.scenes import write_scenes, write_support
from al_dagster.demo.scoring import Label, Score, read_truth, score_labels
from al_dagster.demo.truth import map50_against_truth
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.batches import list_batches
from al_dagster.registry.database import open_registry
from al_dagster.registry.datasets import save_definition
from al_dagster.registry.objects import list_objects
from al_dagster.registry.paths import seen_files
from al_dagster.registry.status import read_status
from al_dagster.runs import asset_metadata, execute, step_seconds

SCENES = 80
SHOTS = 5

Bars = Callable[[str], AbstractContextManager[None]]

PEOPLE = {"name": "people", "classes": ("person", "face")}
PARTS = {
    "name": "parts",
    "classes": CLASSES,
    "classification": {"threshold": 0.75},
    "description": f"Drawn machine parts, labelled by {SHOTS} examples of each class.",
}
DATASET: dict[str, Any] = {
    "name": "parts",
    "project": "parts",
    "split": {"train": 0.7, "val": 0.1, "test": 0.2},
    "training": {
        "model": "yolo11n.yaml",
        "epochs": 50,
        "imgsz": 256,
        "batch": 4,
        "nbs": 4,
        "optimizer": "AdamW",
        "lr0": 0.002,
        "mosaic": 0.0,
        "close_mosaic": 0,
        "flipud": 0.5,
        "patience": 0,
        "validate_each_epoch": False,
        "cache": True,
        "threads": 2,
        "device": "cpu",
    },
}


def run_demo(settings: Settings, bars: Bars, *, scenes: int = SCENES, epochs: int | None = None) -> dict[str, Any]:
    """Run both projects, write ``demo.json`` into ``AL_HOME``, and return what it says.

    Running it again uses what stands: files keep their times, batches their rows, the dataset its version and the
    model its weights.

    Args:
        settings: where everything is kept.
        bars: shows progress under a title while it is open.
        scenes: how many scenes of parts are drawn.
        epochs: how long the model is trained, if not as long as ``DATASET`` says.

    Returns:
        ``files``, ``objects`` and ``quarantined`` of both projects; ``label_precision`` and ``label_recall`` of the
        labels of the parts against the ground truth at IoU 0.5; ``map50`` of the model on the test split;
        ``map50_truth`` of the same predictions against the ground truth; ``seconds``, and more by stage and split.
    """
    started = time.perf_counter()
    folder = settings.home.absolute() / "demo"
    stages: dict[str, float] = {}
    with bars("drawing scenes"):
        truth = _prepare(folder, scenes)
    stages["prepare"] = round(time.perf_counter() - started, 2)
    people = parse_project(PEOPLE, "the demonstration")
    parts = parse_project({**PARTS, "support": folder / "parts" / "support"}, "the demonstration")
    reused = 0
    for project in (people, parts):
        with bars(project.name):
            reused += _label(settings, project, folder / project.name / "images", stages)
    training = {**DATASET["training"], **({"epochs": epochs} if epochs else {})}
    definition = parse_definition({**DATASET, "training": training}, "the demonstration")
    with open_registry(settings.database_url) as registry:
        save_definition(registry, definition.name, definition.model_dump(mode="json"))
    with bars("dataset and model"):
        result = execute("build_and_train", partition=definition.name, partitions=datasets)
    _add(stages, step_seconds(result))
    built, trained, evaluated = (asset_metadata(result, name) for name in ("dataset", "trained_model", "evaluation"))
    score = _score(settings, parts, truth)
    with bars("model against the ground truth"):
        map50_truth = map50_against_truth(settings, definition.name, Path(trained["weights"]), truth)
    with open_registry(settings.database_url) as registry:
        status = [row for row in read_status(registry)["projects"] if row["project"] in ("people", "parts")]
    outcome = {
        **{name: sum(row[name] for row in status) for name in ("files", "objects", "quarantined")},
        "label_precision": round(score.overall.precision, 4),
        "label_recall": round(score.overall.recall, 4),
        "map50": evaluated["map50"],
        "map50_truth": round(map50_truth, 4),
        "seconds": round(time.perf_counter() - started, 1),
        "reused": {"units": reused, "model": trained["reused"]},
        "label_figures": {
            name: {"precision": round(counts.precision, 4), "recall": round(counts.recall, 4), "parts": counts.true}
            for name, counts in score.per_class.items()
        },
        "dataset": {
            "version": built["version"],
            "images": {split: built[f"images_{split}"] for split in ("train", "val", "test")},
            "objects": {split: built[f"objects_{split}"] for split in ("train", "val", "test")},
        },
        "model": trained["model"],
        "test_images": evaluated["images"],
        "seconds_by_stage": stages,
    }
    _write(settings.home / "demo.json", outcome)
    return outcome


def _prepare(folder: Path, scenes: int) -> Path:
    collect_people(folder / "people" / "images")
    write_support(folder / "parts" / "support", SHOTS)
    return write_scenes(folder / "parts" / "images", scenes, truth_path=folder / "parts" / "truth.json")


def _label(settings: Settings, project: ProjectConfig, images: Path, stages: dict[str, float]) -> int:
    """Label every batch of a project, also those that were labelled before; returns the units that were reused."""
    with open_registry(settings.database_url) as registry:
        take_folder(registry, images, project, batch_size=settings.batch_size)
        keys = list_batches(registry, project.name)
    reused = 0
    for key in keys:
        result = execute("label_batch", partition=key, partitions=batches)
        reused += sum(asset_metadata(result, name)["reused"] for name in ("detections", "masks", "embeddings"))
        _add(stages, step_seconds(result))
    return reused


def _add(stages: dict[str, float], seconds: dict[str, float]) -> None:
    for name, value in seconds.items():
        stages[name] = round(stages.get(name, 0.0) + value, 2)


def _score(settings: Settings, project: ProjectConfig, truth: Path) -> Score:
    with open_registry(settings.database_url) as registry:
        rows = list_objects(registry, project=project.name, limit=None)
        files = seen_files(registry, [row["source_id"] for row in rows], project.name)
    labels = [
        Label(
            Path(files[row["source_id"]][0].file_path).name,
            row["category"],
            (row["bbox_x"], row["bbox_y"], row["bbox_w"], row["bbox_h"]),
        )
        for row in rows
    ]
    return score_labels(labels, read_truth(truth))


def _write(path: Path, outcome: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(outcome, indent=2) + "\n").encode())
