"""How long one photo takes in the profile ``embedded``, from a user's point of view.

The photo is read from disk, its objects are proposed, segmented, cut out and embedded, and named by a support set, with
the functions that the platform's stages call. ``cold`` builds the models and reads the support set first, as the first
photo of a process does; ``warm`` is the middle one of several photos after it. Starting Python and importing the
package is not part of either.

    python benchmarks/one_image.py --json one_image.json
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from publishing import publish

from al_dagster.core.geometry import clip_xyxy
from al_dagster.core.project import UNKNOWN, ProjectConfig, parse_project
from al_dagster.core.settings import Settings, load_settings
from al_dagster.demo.parts import CLASSES
from al_dagster.demo.scenes import draw_scene, write_support
from al_dagster.labelling.labels import detector_prompts
from al_dagster.labelling.models import environment, project_models
from al_dagster.media.reading import read_image
from al_dagster.vision.crops import crop_object
from al_dagster.vision.fewshot import SupportSet, build_support, classify, picture_crops
from al_dagster.vision.overlaps import resolve_overlaps
from al_dagster.vision.profiles import Models

BARS = {"cold_seconds": 3.0, "warm_seconds": 3.0}
SIZE = (1024, 768)
SERIES = 1


def write_photo(path: Path) -> None:
    """Write a drawn scene, enlarged to 1024×768, as a JPEG."""
    scene = cv2.resize(draw_scene(0, SERIES).image, SIZE, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), scene[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


def prepared(project: ProjectConfig, settings: Settings) -> tuple[Models, SupportSet]:
    """The models of a project and its support set."""
    assert project.support is not None
    models = project_models(project, environment(settings))
    read = partial(read_image, max_pixels=settings.max_image_pixels)
    crops = picture_crops(project.support, project.classes, read, models.segmenter)
    return models, build_support(crops, models.embedder)


def label_photo(path: Path, project: ProjectConfig, models: Models, support: SupportSet, max_pixels: int) -> list[str]:
    """Label one photo; the classes of its proposals, "Unknown" among them."""
    image = read_image(path, max_pixels=max_pixels)
    found = models.detector.detect([image], detector_prompts(project))[0]
    sure = np.asarray(found.confidence) >= models.detector.least_confidence
    boxes = clip_xyxy(np.asarray(found.xyxy, dtype=float)[sure], image.shape[1], image.shape[0])
    if len(boxes) == 0:
        return []
    masks = models.segmenter.segment([image], [boxes])[0]
    vectors = models.embedder.embed([crop_object(image, *pair) for pair in zip(boxes, masks, strict=True)])
    rules = project.classification
    named = classify(vectors, support, rules.threshold, rules.top_k, rules.min_margin)
    return [result.label for result in resolve_overlaps(boxes, masks, named)]


def run_benchmark(home: Path, photo: Path | None, repeats: int) -> dict[str, Any]:
    """All figures."""
    os.environ["AL_HOME"] = str(home)
    settings = load_settings()
    max_pixels = settings.max_image_pixels
    support_folder = home / "support"
    write_support(support_folder)
    project = parse_project({"name": "one", "classes": CLASSES, "support": support_folder}, "the benchmark")
    path = photo
    if path is None:
        path = home / "scene.jpg"
        write_photo(path)
    size = read_image(path, max_pixels=max_pixels).shape[1::-1]

    started = time.perf_counter()
    models, support = prepared(project, settings)
    ready = time.perf_counter() - started
    labels = label_photo(path, project, models, support, max_pixels)
    cold = time.perf_counter() - started
    warm = []
    for _ in range(repeats):
        started = time.perf_counter()
        label_photo(path, project, models, support, max_pixels)
        warm.append(time.perf_counter() - started)
    return {
        "cold_seconds": round(cold, 3),
        "warm_seconds": round(statistics.median(warm), 3),
        "bars": BARS,
        "warm_runs": [round(seconds, 3) for seconds in warm],
        "prepare_seconds": round(ready, 3),
        "image": "drawn" if photo is None else photo.name,
        "width": size[0],
        "height": size[1],
        "proposals": len(labels),
        "named": sum(label != UNKNOWN for label in labels),
        "profile": project.profile,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--image", type=Path, help="photo to label; a drawn scene of 1024×768 when left out")
    parser.add_argument("--repeats", type=int, default=5, help="warm runs, at least 1")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        sys.exit("--repeats must be at least 1")
    if options.image is not None and not options.image.is_file():
        sys.exit(f"{options.image}: there is no such file; give a photo")
    with tempfile.TemporaryDirectory() as folder:
        result = run_benchmark(Path(folder), options.image and options.image.absolute(), options.repeats)
    publish(result, options.json)


if __name__ == "__main__":
    main()
