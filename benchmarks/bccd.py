"""What labelling by example is worth on real photos: blood cells under a microscope, five examples of each kind.

The photos come with boxes of red cells (RBC), white cells (WBC) and platelets, drawn by hand, in PASCAL VOC files. The
first 35 of the 106, in the order of their names, are for training: the examples are cut out of them, and what the
proposals were improved and the threshold was chosen by; they are not tested on. The examples are drawn at random, with
a fixed seed, from the objects that lie inside their photo and share at most a tenth of their box with others.

The other photos are labelled by the platform itself: the job ``label_batch`` with the profile ``embedded``, which has
no trained weights. A label is right if it overlaps an object of its class by IoU 0.5; labels are matched one to one,
the most confident first. ``proposed`` tells how many objects some box of the detector overlaps as much, whatever it
was named: more cannot be found.

    python benchmarks/bccd.py --json bccd.json
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import structlog
from PIL import Image
from publishing import publish

from al_dagster.assets.partitions import batches
from al_dagster.core.geometry import iou_matrix, xywh_to_xyxy
from al_dagster.core.lake import Lake
from al_dagster.core.project import ProjectConfig, parse_project
from al_dagster.core.settings import Settings, load_settings
from al_dagster.labelling.intake import take_folder
from al_dagster.registry.database import open_registry
from al_dagster.registry.objects import list_objects
from al_dagster.registry.sources import get_source
from al_dagster.runs import execute, step_seconds
from al_dagster.vision.fewshot import MARGIN

CLASSES = ("RBC", "WBC", "Platelets")
DATA = Path(__file__).parents[2] / "shared" / "data" / "bccd"
TRAINING_PHOTOS = 35
SHOTS = 5
SEED = 0
MOST_SHARED = 0.1
THRESHOLD = 0.8
IOU = 0.5
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


@dataclass(frozen=True)
class Truth:
    """A photo and its objects.

    Args:
        path: the photo.
        labels: n classes.
        boxes: (n, 4), x1, y1, x2, y2 in pixels.
    """

    path: Path
    labels: list[str]
    boxes: np.ndarray


def read_photos(data: Path) -> list[Truth]:
    """The photos and their objects, in the order of their names."""
    photos = []
    for path in sorted((data / "JPEGImages").glob("*.jpg")):
        root = ElementTree.parse(data / "Annotations" / f"{path.stem}.xml").getroot()
        found = [entry for entry in root.iter("object") if entry.findtext("name") in CLASSES]
        corners = [
            [float(entry.findtext(f"bndbox/{side}", "nan")) for side in ("xmin", "ymin", "xmax", "ymax")]
            for entry in found
        ]
        labels = [str(entry.findtext("name")) for entry in found]
        photos.append(Truth(path, labels, np.array(corners).reshape(-1, 4)))
    return photos


def write_examples(folder: Path, photos: Sequence[Truth]) -> list[str]:
    """Cut example pictures out of training photos, a folder a class; returns the names of the photos used."""
    chance, used = random.Random(SEED), set()
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        candidates = [
            (photo, box)
            for photo in photos
            for label, box in zip(photo.labels, photo.boxes, strict=True)
            if label == name and _stands_free(box, photo)
        ]
        for number, (photo, box) in enumerate(chance.sample(candidates, SHOTS)):
            used.add(photo.path.name)
            with Image.open(photo.path) as image:
                image.crop(tuple(_widened(box).tolist())).save(folder / name / f"{number}.png")
    return sorted(used)


def _stands_free(box: np.ndarray, photo: Truth) -> bool:
    """Whether an object and its picture's border lie inside the photo, nearly clear of the other objects' boxes."""
    with Image.open(photo.path) as image:
        width, height = image.size
    wide = _widened(box)
    low, high = np.maximum(box[:2], photo.boxes[:, :2]), np.minimum(box[2:], photo.boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1).sum() / (box[2:] - box[:2]).prod() - 1
    return bool(shared <= MOST_SHARED and (wide[:2] >= 0).all() and (wide[2:] <= (width, height)).all())


def _widened(box: np.ndarray) -> np.ndarray:
    """The box with the border that an example picture has, in whole pixels."""
    border = MARGIN / (1 - 2 * MARGIN) * (box[2:] - box[:2]).min()
    return np.round(box + np.array([-border, -border, border, border])).astype(int)


def label(
    home: Path, photos: Sequence[Truth], project: ProjectConfig, settings: Settings
) -> tuple[dict[str, Any], ...]:
    """Label photos as one batch: by file name the labels and the proposals, then the seconds of each step."""
    folder = home / "photos"
    folder.mkdir()
    for photo in photos:
        shutil.copy(photo.path, folder)
    with open_registry(settings.database_url) as registry:
        (key,) = take_folder(registry, folder, project, batch_size=len(photos))
    result = execute("label_batch", partition=key, partitions=batches)
    labels: dict[str, list[dict[str, Any]]] = {photo.path.name: [] for photo in photos}
    proposals: dict[str, list[dict[str, Any]]] = {photo.path.name: [] for photo in photos}
    with open_registry(settings.database_url) as registry:
        for rows, by_name in (
            (list_objects(registry, project=project.name, limit=None), labels),
            (Lake(settings.lake).read("detections", key).to_pylist(), proposals),
        ):
            for row in rows:
                by_name[Path(get_source(registry, row["source_id"])["file_path"]).name].append(row)
    return labels, proposals, step_seconds(result)


def count(
    photo: Truth, labels: Sequence[dict[str, Any]], proposals: Sequence[dict[str, Any]]
) -> Counter[tuple[str, str]]:
    """What was found in a photo, by class and kind: objects, proposed, tp, fp."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, row in zip(photo.labels, iou_matrix(photo.boxes, _corners(proposals)), strict=True):
        counts[name, "objects"] += 1
        counts[name, "proposed"] += int(row.max(initial=0.0) >= IOU)
    for name in CLASSES:
        truth = photo.boxes[[label == name for label in photo.labels]]
        own = [row for row in labels if row["category"] == name]
        own.sort(key=lambda row: (-row["classification_confidence"], row["object_id"]))
        overlaps = iou_matrix(_corners(own), truth)
        for row in overlaps:
            best = int(row.argmax()) if row.size else -1
            right = best >= 0 and row[best] >= IOU
            counts[name, "tp" if right else "fp"] += 1
            if right:
                overlaps[:, best] = 0.0
    return counts


def _corners(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    return xywh_to_xyxy(np.array([[row[column] for column in BOX] for row in rows], dtype=float).reshape(-1, 4))


def figures(counts: Counter[tuple[str, str]], name: str) -> dict[str, float | int]:
    """Counts, precision and recall of a class."""
    objects, proposed, tp, fp = (counts[name, kind] for kind in ("objects", "proposed", "tp", "fp"))
    return {
        "objects": objects,
        "proposed": proposed,
        "tp": tp,
        "fp": fp,
        "fn": objects - tp,
        "precision": round(tp / (tp + fp), 4) if tp + fp else 0.0,
        "recall": round(tp / objects, 4) if objects else 0.0,
    }


def run_benchmark(home: Path, data: Path, images: int | None) -> dict[str, Any]:
    """All figures, measured in an empty home."""
    os.environ["AL_HOME"] = str(home)
    os.environ.pop("DAGSTER_HOME", None)
    settings = load_settings()
    photos = read_photos(data)
    training, tested = photos[:TRAINING_PHOTOS], photos[TRAINING_PHOTOS:][:images]
    examples = write_examples(home / "support", training)
    rules = {"threshold": THRESHOLD}
    project = parse_project(
        {"name": "bccd", "classes": CLASSES, "support": home / "support", "classification": rules}, "the benchmark"
    )
    started = time.perf_counter()
    labels, proposals, seconds = label(home, tested, project, settings)
    elapsed = time.perf_counter() - started
    counts: Counter[tuple[str, str]] = Counter()
    for photo in tested:
        counts += count(photo, labels[photo.path.name], proposals[photo.path.name])
    return {
        "classes": {name: figures(counts, name) for name in CLASSES},
        "settings": {
            "profile": project.profile,
            "classification": project.classification.model_dump(),
            "iou": IOU,
            "shots": SHOTS,
            "seed": SEED,
            "most_shared": MOST_SHARED,
        },
        "photos": {
            "training": len(training),
            "tested": len(tested),
            "first_tested": tested[0].path.name,
            "examples_from": examples,
            "chosen_by_training_photos": "the proposals' rule for crowds, the pull on learnt weights and the threshold",
        },
        "proposals_per_photo": round(sum(map(len, proposals.values())) / len(tested), 1),
        "seconds": round(elapsed, 2),
        "seconds_per_photo": round(elapsed / len(tested), 3),
        "seconds_by_step": seconds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--images", type=int, help="test photos to label, at least 1; all when left out")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with JPEGImages and Annotations")
    options = parser.parse_args(arguments)
    if options.images is not None and options.images < 1:
        sys.exit("--images must be at least 1")
    if not (options.data / "JPEGImages").is_dir() or not (options.data / "Annotations").is_dir():
        sys.exit(f"{options.data}: has no JPEGImages and Annotations; give the folder of the BCCD photos with --data")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    with tempfile.TemporaryDirectory() as folder:
        result = run_benchmark(Path(folder), options.data.absolute(), options.images)
    publish(result, options.json)


if __name__ == "__main__":
    main()
