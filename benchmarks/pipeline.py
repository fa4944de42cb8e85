"""What the platform costs on top of its models: the same images in a bare loop and as a Dagster run of one batch.

The bare loop reads each file, detects, segments, cuts out, embeds and classifies, in chunks of as many images as the
pipeline's, and keeps nothing. The pipeline does the same as the job ``label_batch`` on a persistent instance: it
also checks, hashes and registers files, writes the lake, the masks, the registry and the vector index, draws contact
sheets and runs the asset checks. Both are warmed up, and have the same models, which must find the same boxes.

The first half of the images goes through the bare loop before the pipeline runs and the second half after it, so that
a machine that grows slower or faster does so for both. Beside the time by the clock, which other work on the machine
disturbs, the CPU time of the process stands in the output.

    python benchmarks/pipeline.py --json pipeline.json
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import supervision as sv
from PIL import Image
from publishing import cpu_seconds, publish

from al_dagster.assets.partitions import batches
from al_dagster.core.geometry import clip_xyxy
from al_dagster.core.project import ProjectConfig, parse_project
from al_dagster.core.settings import Settings, load_settings
from al_dagster.demo.scenes import CLASSES, write_scenes, write_support
from al_dagster.labelling import models
from al_dagster.labelling.intake import take_folder
from al_dagster.labelling.labels import detector_prompts
from al_dagster.media.reading import read_image
from al_dagster.registry.database import open_registry
from al_dagster.runs import asset_metadata, execute, step_seconds
from al_dagster.vision.crops import crop_object
from al_dagster.vision.fewshot import build_support, classify, picture_crops
from al_dagster.vision.overlaps import resolve_overlaps
from al_dagster.vision.parallel import IMAGES_PER_CALL
from al_dagster.vision.profiles import Environment, Models

BARS = {"ratio": 0.95, "rerun_fraction": 0.05, "rerun_model_calls": 0}
PACKAGES = ("dagster", "opencv-python-headless", "numpy", "pyarrow", "sqlalchemy", "chromadb")
WARM_UP_IMAGES = 2


@dataclass
class Spent:
    """Seconds by the clock and of CPU time, all threads together."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def measured(spent: Spent) -> Iterator[None]:
    """Add what the block takes."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    try:
        yield
    finally:
        spent.wall += time.perf_counter() - wall
        spent.cpu += cpu_seconds() - cpu


class Counted:
    """A model that counts its calls."""

    def __init__(self, model: Any, calls: list[str]) -> None:
        self._model, self._calls = model, calls

    def __getattr__(self, name: str) -> Any:
        if name in ("detect", "segment", "embed"):
            self._calls.append(name)
        return getattr(self._model, name)


def count_calls(calls: list[str]) -> None:
    """Have every set of models that is built from now on note its calls."""
    build = models.project_models

    def counted(project: ProjectConfig, machine: Environment) -> Models:
        built = build(project, machine)
        return Models(*(Counted(model, calls) for model in (built.detector, built.segmenter, built.embedder)))

    models.project_models = counted


def bare_loop(paths: Sequence[Path], project: ProjectConfig, max_pixels: int) -> int:
    """Label images the plain way and keep nothing; returns how many boxes there were."""
    assert project.support is not None
    built = models.project_models(project, models.environment(load_settings()))
    prompts, boxes_found = detector_prompts(project), 0
    read = partial(read_image, max_pixels=max_pixels)
    crops = picture_crops(project.support, project.classes, read, built.segmenter)
    support = build_support(crops, built.embedder)
    for start in range(0, len(paths), IMAGES_PER_CALL):
        images = [np.asarray(Image.open(path).convert("RGB")) for path in paths[start : start + IMAGES_PER_CALL]]
        boxes = [
            kept(found, image, built.detector.least_confidence)
            for found, image in zip(built.detector.detect(images, prompts), images, strict=True)
        ]
        masks = built.segmenter.segment(images, boxes)
        crops = [
            crop_object(image, box, mask)
            for image, image_boxes, image_masks in zip(images, boxes, masks, strict=True)
            for box, mask in zip(image_boxes, image_masks, strict=True)
        ]
        vectors = built.embedder.embed(crops)
        taken = 0
        for image_boxes, image_masks in zip(boxes, masks, strict=True):
            named = classify(vectors[taken : taken + len(image_boxes)], support, **project.classification.model_dump())
            resolve_overlaps(image_boxes, image_masks, named)
            taken += len(image_boxes)
        boxes_found += len(vectors)
    return boxes_found


def kept(found: sv.Detections, image: np.ndarray, least_confidence: float) -> np.ndarray:
    """The boxes that the pipeline keeps too."""
    height, width = image.shape[:2]
    xyxy = clip_xyxy(np.asarray(found.xyxy, dtype=float), width, height)
    good = (xyxy[:, 2:] - xyxy[:, :2]).min(axis=1, initial=np.inf) >= 1
    return xyxy[good & (np.asarray(found.confidence) >= least_confidence)]


def prepare(folder: Path, images: int, seed: int, project: ProjectConfig, settings: Settings) -> tuple[list[Path], str]:
    """Draw scenes of a series into a folder and claim them as one batch; the files and the batch's key."""
    write_scenes(folder, images, seed=seed, truth_path=folder.with_suffix(".json"))
    with open_registry(settings.database_url) as registry:
        *_, key = take_folder(registry, folder, project, batch_size=images)
    return sorted(folder.iterdir()), key


def run_benchmark(home: Path, images: int) -> dict[str, Any]:
    """All figures, measured in an empty home."""
    os.environ["AL_HOME"] = str(home)
    os.environ.pop("DAGSTER_HOME", None)
    settings = load_settings()
    support = home / "support"
    write_support(support)
    project = parse_project({"name": "benchmark", "classes": CLASSES, "support": support}, "the benchmark")
    paths, key = prepare(home / "scenes", images, 0, project, settings)
    warm_paths, warm_key = prepare(home / "warm_up", WARM_UP_IMAGES, 1, project, settings)
    label: Callable[[str], Any] = partial(execute, "label_batch", partitions=batches)

    bare_loop(warm_paths, project, settings.max_image_pixels)
    label(partition=warm_key)
    bare, first, again = Spent(), Spent(), Spent()
    calls: list[str] = []
    with measured(bare):
        boxes = bare_loop(paths[: images // 2], project, settings.max_image_pixels)
    with measured(first):
        result = label(partition=key)
    with measured(bare):
        boxes += bare_loop(paths[images // 2 :], project, settings.max_image_pixels)
    count_calls(calls)
    with measured(again):
        repeated = label(partition=key)

    found = asset_metadata(result, "detections")["detections"]
    if found != boxes:
        raise RuntimeError(f"the bare loop saw {boxes} boxes and the pipeline {found}: they did not do the same work")
    return {
        "ratio": round(bare.wall / first.wall, 4),
        "rerun_fraction": round(again.wall / first.wall, 4),
        "rerun_model_calls": len(calls),
        "bars": BARS,
        "cpu_ratio": round(bare.cpu / first.cpu, 4),
        "cpu_rerun_fraction": round(again.cpu / first.cpu, 4),
        "images": images,
        "boxes": boxes,
        "bare_images_per_s": round(images / bare.wall, 3),
        "pipeline_images_per_s": round(images / first.wall, 3),
        "seconds": {name: vars(spent) for name, spent in (("bare", bare), ("first", first), ("again", again))},
        "first_by_step": step_seconds(result),
        "again_by_step": step_seconds(repeated),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--images", type=int, default=256, help="scenes of 640×480 in the batch, at least 2")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with tempfile.TemporaryDirectory() as folder:
        result = run_benchmark(Path(folder), options.images)
    publish(result, options.json, PACKAGES)


if __name__ == "__main__":
    main()
