"""How many images a second of processor time the labels of a dataset are written for, beside what other tools manage.

Everybody writes the labels of the same drawn dataset, with 4 objects an image, each with a box and the outline of its
mask: as YOLO boxes, and as COCO with masks. The dataset is in memory before, in each tool's own form; images are not
copied, and what copying costs the platform is measured apart. Each tool runs in a process of its own, and what it wrote
is counted. The others come from an environment that is made for this, in a folder that is thrown away:

    python benchmarks/labels.py --rivals --json labels.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image
from publishing import publish

from al_dagster.core import rle
from al_dagster.core.hashing import file_sha256
from al_dagster.core.schemas import DATASET
from al_dagster.datasets.definition import DatasetDefinition
from al_dagster.datasets.export_coco import write_coco
from al_dagster.datasets.export_yolo import write_yolo
from al_dagster.datasets.frozen import FrozenDataset
from al_dagster.datasets.images import image_folder, place_image
from al_dagster.datasets.labels import ignored_of, labels_of
from al_dagster.media.budget import PixelBudget
from al_dagster.vision.polygons import mask_polygons
from al_dagster.vision.protocols import Mask

WIDTH, HEIGHT = 640, 480
OBJECTS_PER_IMAGE = 4
CLASSES = tuple(f"part {i:02d}" for i in range(20))
SHAPES = 64
LIMIT = 10**9
RIVALS = {
    "datumaro": ["datumaro"],
    "labelformat": ["labelformat"],
    "fiftyone": ["fiftyone"],
    "supervision": ["supervision", "opencv-python-headless"],
}
FORMATS = ("yolo", "coco")
SECONDS_A_RIVAL = 900


def drawn_masks() -> list[np.ndarray]:
    """Ellipses of many shapes, (90, 100) bool each."""
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(SHAPES):
        pixels = np.zeros((90, 100), np.uint8)
        axes = (int(rng.integers(20, 50)), int(rng.integers(20, 45)))
        cv2.ellipse(pixels, (50, 45), axes, int(rng.integers(0, 180)), 0, 360, 1, -1)
        masks.append(pixels.astype(bool))
    return masks


def draw_dataset(count: int, picture: Path) -> FrozenDataset:
    """A frozen dataset of so many images, which all have the bytes of one picture."""
    shapes, digest = drawn_masks(), file_sha256(picture)
    rows = []
    for i in range(count):
        for j in range(OBJECTS_PER_IMAGE):
            mask = Mask(shapes[(OBJECTS_PER_IMAGE * i + j) % SHAPES], 10 + 150 * j, 20 + i % 300, 1.0)
            rows.append(
                {
                    **{"split": ("train", "train", "val", "test")[i % 4], "source_id": f"src_{i:012d}"},
                    **{"frame_idx": 0, "file_path": f"/images/{i:07d}.png", "sha256": digest, "group_key": f"g{i}"},
                    **{"width": WIDTH, "height": HEIGHT, "image_format": "PNG", "is_plain": True},
                    **{"object_id": f"obj_{OBJECTS_PER_IMAGE * i + j:012d}", "category": CLASSES[(i + j) % 20]},
                    **{"bbox_x": float(mask.x), "bbox_y": float(mask.y), "bbox_w": 100.0, "bbox_h": 90.0},
                    **{"polygon": mask_polygons(mask), "area": float(mask.area)},
                    "rle": rle.encode(mask.pixels, mask.x, mask.y, WIDTH, HEIGHT),
                }
            )
    table = pa.Table.from_pylist(rows, schema=DATASET)
    definition = DatasetDefinition(name="benchmark", project="benchmark")
    return FrozenDataset("ds_benchmark", "1.0", "0" * 64, CLASSES, definition, table)


def fresh(dataset: FrozenDataset, **values: Any) -> FrozenDataset:
    """The dataset with nothing derived from its rows yet, and a definition with these values."""
    definition = dataset.definition.model_copy(update=values)
    return FrozenDataset(
        dataset.dataset_id, dataset.version, dataset.content_hash, dataset.classes, definition, dataset.table
    )


def write_boxes(folder: Path, dataset: FrozenDataset) -> None:
    """Write the dataset as YOLO boxes, from its rows."""
    write_yolo(folder, dataset, labels_of(dataset), segmentation=False)


def write_outlines(folder: Path, dataset: FrozenDataset) -> None:
    """Write the dataset as YOLO outlines, from its rows."""
    write_yolo(folder, dataset, labels_of(dataset), segmentation=True)


def write_masks(folder: Path, dataset: FrozenDataset) -> None:
    """Write the dataset as COCO, from its rows."""
    files = [f"{image.name}.png" for image in dataset.images]
    write_coco(folder, dataset, labels_of(dataset), ignored_of(dataset), files)


def copy_images(folder: Path, dataset: FrozenDataset, picture: Path) -> None:
    """Put the images of the dataset into a folder, as an export does."""
    budget = PixelBudget(LIMIT)
    for split in ("train", "val", "test"):
        (folder / image_folder(split)).mkdir(parents=True)
    for image in dataset.images:
        place_image(image, [picture], folder / image_folder(image.split), links=False, max_pixels=LIMIT, budget=budget)


def images_per_cpu_s(count: int, runs: int, write: Callable[[Path], None]) -> float:
    """The most images for a second of processor time of several runs, each into a folder of its own."""
    figures = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            write(Path(folder))
            figures.append(count / (time.process_time() - start))
    return round(max(figures), 1)


def measure_ours(dataset: FrozenDataset, count: int, runs: int, picture: Path) -> dict[str, float]:
    """What the platform manages, by what it writes."""
    writers: dict[str, Callable[[Path], None]] = {
        "yolo": lambda folder: write_boxes(folder, fresh(dataset)),
        "yolo-seg": lambda folder: write_outlines(folder, fresh(dataset)),
        "coco": lambda folder: write_masks(folder, fresh(dataset)),
        "coco_exact_polygons": lambda folder: write_masks(folder, fresh(dataset, coco_masks="polygon")),
        "copying_images": lambda folder: copy_images(folder, fresh(dataset), picture),
    }
    return {name: images_per_cpu_s(count, runs, write) for name, write in writers.items()}


def for_rivals(dataset: FrozenDataset, picture: Path) -> dict[str, Any]:
    """The dataset as the other tools are given it."""
    outlines = [points.ravel().tolist() for points in labels_of(dataset).outlines()]
    labels = labels_of(dataset)
    starts, boxes, classes = labels.starts.tolist(), labels.xywh.tolist(), labels.class_ids.tolist()
    return {
        "classes": list(dataset.classes),
        "width": WIDTH,
        "height": HEIGHT,
        "picture": str(picture),
        "images": [
            {
                "name": image.name,
                "split": image.split,
                "objects": [
                    {"class_id": classes[k], "bbox": boxes[k], "polygon": outlines[k]}
                    for k in range(starts[i], starts[i + 1])
                ],
            }
            for i, image in enumerate(dataset.images)
        ],
    }


def measure_rival(name: str, data: Path, folder: Path, environments: Path, runs: int) -> dict[str, Any]:
    """What another tool manages, by format; a sentence in place of a figure that could not be had."""
    python = environments / name / "bin" / "python"
    uv = [sys.executable, "-m", "uv"]
    for command in (
        [*uv, "venv", "--quiet", "--python", sys.executable, str(environments / name)],
        [*uv, "pip", "install", "--quiet", "--python", str(python), *RIVALS[name]],
    ):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            return dict.fromkeys(FORMATS, f"skipped: cannot be installed: {made.stderr.strip()[-200:]}")
    figures: dict[str, Any] = {}
    for format_name in FORMATS:
        script = Path(__file__).with_name("labels_rivals.py")
        command = [str(python), str(script), name, format_name, str(data), str(runs)]
        try:
            ran = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS_A_RIVAL,
                cwd=folder,
                env={**os.environ, "TMPDIR": str(folder)},
            )
        except subprocess.TimeoutExpired:
            figures[format_name] = f"skipped: takes more than {SECONDS_A_RIVAL} s"
            continue
        if ran.returncode:
            figures[format_name] = f"skipped: cannot be started: {ran.stderr.strip()[-200:]}"
        else:
            figures |= json.loads(ran.stdout.splitlines()[-1])
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the result as JSON and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--images", type=int, default=10_000, help="images of the dataset")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; the best counts")
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() else None
    parser.add_argument("--folder", type=Path, default=where, help="where labels are written; by default in memory")
    parser.add_argument("--environments", type=Path, default="/tmp", help="where the other tools are installed")
    parser.add_argument("--rivals", action="store_true", help="install the other tools with uv and measure them too")
    options = parser.parse_args(arguments)
    # The disk is everybody's, and may take longer to make a file than any tool to write it.
    tempfile.tempdir = options.folder and str(options.folder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture = folder / "picture.png"
        Image.new("RGB", (WIDTH, HEIGHT), (120, 110, 100)).save(picture)
        dataset = draw_dataset(options.images, picture)
        result: dict[str, Any] = {
            "images": options.images,
            "objects": options.images * OBJECTS_PER_IMAGE,
            "images_per_cpu_second": {"al_dagster": measure_ours(dataset, options.images, options.runs, picture)},
        }
        if options.rivals:
            data = folder / "dataset.json"
            data.write_text(json.dumps(for_rivals(dataset, picture)))
            with tempfile.TemporaryDirectory(dir=options.environments) as environments:
                for rival in RIVALS:
                    figures = measure_rival(rival, data, folder, Path(environments), options.runs)
                    result["images_per_cpu_second"][rival] = figures
    publish(result, options.json, ("numpy", "orjson", "pyarrow"))


if __name__ == "__main__":
    main()
