"""How long it takes to select, split and freeze a dataset, by the number of its objects.

Fills a registry with images of four objects each, with polygons and perceptual hashes, and measures the parts of a
build: selection and split until every row is there and the content is known, as the sensor needs it; the same with the
outlines of the masks, as a build does it; and, apart, since it is the database's cost, the rows that the registry keeps
of a version. All is done once before, on a small registry, so that no figure holds the loading of libraries. Each
figure is the best of several runs.

    python benchmarks/selection.py --json selection.json
"""

import argparse
import hashlib
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import structlog
from publishing import publish

from al_dagster.core import ids
from al_dagster.core.lake import Lake
from al_dagster.core.project import ProjectConfig
from al_dagster.datasets.build import Selected, assignments, frozen_rows, select_content
from al_dagster.datasets.definition import DatasetDefinition
from al_dagster.datasets.selection import open_pool
from al_dagster.registry.database import Registry, open_registry
from al_dagster.registry.datasets import freeze_dataset
from al_dagster.registry.masks import MaskStore
from al_dagster.registry.projects import save_project

BARS = {"cpu_seconds_of_100000": 0.6, "seconds_of_1000000": 5.0}
OBJECTS_PER_IMAGE = 4
PROJECT = "benchmark"
CLASSES = tuple(f"part {i:02d}" for i in range(20))
DISTANCE = 6
WARM_UP_OBJECTS = 400


def fill(path: Path, count: int) -> Registry:
    """A registry with ``count`` labelled objects; files and masks are not there."""
    registry = open_registry(f"sqlite:///{path}")
    save_project(registry, ProjectConfig(name=PROJECT, classes=CLASSES))
    rng = np.random.default_rng(0)
    images = -(-count // OBJECTS_PER_IMAGE)
    hashes = rng.bytes(32 * images).hex()
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([50 + 45 * np.cos(angles), 65 + 40 * np.sin(angles)], axis=1)
    polygons = [orjson.dumps([(ring + np.array([150, 0]) * i).round(1).ravel().tolist()]).decode() for i in range(4)]
    sha256s = [hashlib.sha256(f"{index}".encode()).hexdigest() for index in range(images)]
    sources = [ids.source_id(sha256) for sha256 in sha256s]
    frames = [ids.frame_id(source, 0) for source in sources]
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO batches (batch_key, project_id) VALUES (?, ?)", (PROJECT, PROJECT))
        connection.executemany("INSERT INTO categories (name) VALUES (?)", [(name,) for name in CLASSES])
        connection.executemany(
            "INSERT INTO sources (source_id, source_type, file_path, width, height, sha256, perceptual_hash, group_key,"
            ' metadata) VALUES (?, \'image\', ?, 640, 480, ?, ?, ?, \'{"format": "JPEG", "plain": true}\')',
            (
                (source, f"/images/{index:07d}.jpg", sha256s[index], hashes[64 * index : 64 * index + 64], source)
                for index, source in enumerate(sources)
            ),
        )
        connection.executemany(
            "INSERT INTO batch_files (batch_key, project_id, file_path, size_bytes, mtime_ns, source_id, status)"
            " VALUES (?, ?, ?, 1, 1, ?, 'ready')",
            ((PROJECT, PROJECT, f"/images/{index:07d}.jpg", source) for index, source in enumerate(sources)),
        )
        connection.executemany(
            "INSERT INTO frames (frame_id, source_id, frame_idx) VALUES (?, ?, 0)", zip(frames, sources, strict=True)
        )
        connection.executemany(
            "INSERT INTO frame_labels (project_id, frame_id, batch_key, labelled_at)"
            " VALUES (?, ?, ?, '2026-01-01 00:00:00.000')",
            ((PROJECT, frame, PROJECT) for frame in frames),
        )
        connection.executemany(
            "INSERT INTO objects (object_id, source_id, category_id, frame_id, project_id, bbox_x, bbox_y, bbox_w,"
            " bbox_h, mask_path, polygon, mask_rle, area, confidence, detection_model)"
            " VALUES (?, ?, ?, ?, ?, ?, 20, 100, 90, ?, ?, ?, 5654, 0.8, 'benchmark@1')",
            (
                (
                    f"obj_{ids.digest(number)}",
                    sources[number // OBJECTS_PER_IMAGE],
                    number % len(CLASSES) + 1,
                    frames[number // OBJECTS_PER_IMAGE],
                    PROJECT,
                    5.0 + 150 * (number % OBJECTS_PER_IMAGE),
                    f"{number:08d}.png",
                    polygons[number % OBJECTS_PER_IMAGE],
                    "PPYo1" * 24,
                )
                for number in range(count)
            ),
        )
    return registry


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What the work gives, with its seconds and seconds of processor time."""
    start, cpu_start = time.perf_counter(), time.process_time()
    result = work()
    return result, {
        "seconds": round(time.perf_counter() - start, 3),
        "cpu_seconds": round(time.process_time() - cpu_start, 3),
    }


def _select(registry: Registry, definition: DatasetDefinition) -> Selected:
    with open_pool(registry, PROJECT) as pool:
        return select_content(registry, pool, definition, DISTANCE)


def _select_and_freeze(registry: Registry, definition: DatasetDefinition, masks: MaskStore) -> pa.Table:
    with open_pool(registry, PROJECT, with_polygons=True) as pool:
        return frozen_rows(select_content(registry, pool, definition, DISTANCE), pool, masks)


def measure(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """The figures of each part, of a registry of its own."""
    definition = DatasetDefinition(name="all", project=PROJECT)
    with fill(folder / "registry.db", count) as registry:
        _, select_figures = measured(lambda: _select(registry, definition))
        masks = MaskStore(folder / "masks")
        table, table_figures = measured(lambda: _select_and_freeze(registry, definition, masks))
        if table.num_rows != count:
            raise RuntimeError(f"expected {count} rows, got {table.num_rows}")
        _, store_figures = measured(lambda: Lake(str(folder / "lake")).write("dataset", "all", table))
        rows = assignments(table)
        _, record_figures = measured(
            lambda: freeze_dataset(
                registry, name="all", definition={}, content_hash="benchmark", run_id=None, assignments=rows
            )
        )
    return {
        "select_and_split": select_figures,
        "select_split_and_outlines": table_figures,
        "write_to_lake": store_figures,
        "rows_of_the_registry": record_figures,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the result as JSON and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--objects", type=int, nargs="+", default=[100_000, 1_000_000], help="objects of a registry")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; the best counts")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    sizes = []
    for count in (WARM_UP_OBJECTS, *options.objects):
        runs = []
        for _ in range(options.runs):
            with tempfile.TemporaryDirectory() as folder:
                runs.append(measure(Path(folder), count))
        best = {
            part: {key: min(run[part][key] for run in runs) for key in ("seconds", "cpu_seconds")} for part in runs[0]
        }
        sizes.append({"objects": count, "images": -(-count // OBJECTS_PER_IMAGE), **best, "runs": runs})
    publish({"sizes": sizes[1:], "bars": BARS}, options.json)


if __name__ == "__main__":
    main()
