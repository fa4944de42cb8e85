"""How many objects a second the registry takes, without and with embeddings that go on to the vector store.

Measures what a batch of the platform does: `register_batch`, and with embeddings `sync_embeddings` to a real Chroma
index, both in a temporary folder, with masks' polygons, 4 objects an image and vectors in clusters. Files, frames and
vectors are made beforehand. The index stays open over the batches, as it does in a run. Each figure is the best of
several runs, since a busy machine only ever makes one slower; all runs are in the output, as is the best figure for a
second of processor time, which tells a slow program from a machine that was busy with other things.

    python benchmarks/register.py --json register.json
"""

import argparse
import hashlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from publishing import cpu_seconds, publish

from al_dagster.core import ids
from al_dagster.core.project import ProjectConfig
from al_dagster.registry.batches import FileEntry, claim_files
from al_dagster.registry.database import Registry, open_registry
from al_dagster.registry.embedding_versions import ensure_version
from al_dagster.registry.labelling import LabelledObject, register_batch
from al_dagster.registry.outbox import outbox_counts, sync_embeddings
from al_dagster.registry.projects import save_project
from al_dagster.registry.sources import register_frames, register_sources
from al_dagster.vectors.chroma import ChromaStore

BARS = {"objects_per_s": 20_000, "objects_per_s_with_embeddings": 1_500}
DIMENSION = 768
OBJECTS_PER_IMAGE = 4
PROJECT = "benchmark"
CLASSES = tuple(f"part {i:02d}" for i in range(20))
VERSION = "benchmark_v1"


def register_images(registry: Registry, count: int, batch_size: int) -> list[tuple[str, list[str]]]:
    """Register images and their frames; batch keys with the sources of their images."""
    save_project(registry, ProjectConfig(name=PROJECT, classes=CLASSES))
    files = [FileEntry(f"/images/{i:07d}.png", 1000, 1) for i in range(count)]
    batches = []
    for start in range(0, count, batch_size):
        part = files[start : start + batch_size]
        (key,) = claim_files(registry, PROJECT, part, batch_size)
        rows = [source_row(file) for file in part]
        register_sources(registry, key, rows, duplicate_distance=6)
        frames = [
            {"frame_id": ids.frame_id(row["source_id"], 0), "frame_idx": 0, "timestamp_ms": 0} | row for row in rows
        ]
        register_frames(registry, frames)
        batches.append((key, [row["source_id"] for row in rows]))
    return batches


def source_row(file: FileEntry) -> dict[str, Any]:
    """A row of the ``sources`` table for a file that is not there."""
    sha256 = hashlib.sha256(file.file_path.encode()).hexdigest()
    return {
        "file_path": file.file_path,
        "status": "ready",
        "reason": None,
        "source_id": ids.source_id(sha256),
        "source_type": "image",
        "sha256": sha256,
        "perceptual_hash": None,
        "width": 640,
        "height": 480,
        "frame_count": 1,
        "fps": None,
        "size_bytes": file.size_bytes,
        "mtime_ns": file.mtime_ns,
        "metadata": "{}",
    }


def clustered_vectors(count: int) -> np.ndarray:
    """Vectors around 200 centres, (count, 768), float32, L2 norm 1; within a cluster the cosine is about 0.5."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, DIMENSION))
    vectors = centres[rng.integers(0, 200, count)] + rng.normal(size=(count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def label(source: str, i: int, vector: np.ndarray | None) -> LabelledObject:
    """The label of the i-th object of an image, with everything that a label can have."""
    box = (10.0 + 150 * i, 20.0, 100.0, 90.0)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.stack([box[0] + 50 + 45 * np.cos(angles), 65 + 40 * np.sin(angles)], axis=1).round(1).ravel().tolist()
    object_id = ids.object_id(PROJECT, source, 0, "benchmark@1", box)
    return LabelledObject(
        object_id=object_id,
        frame_id=ids.frame_id(source, 0),
        source_id=source,
        category=CLASSES[(int(object_id.encode().hex(), 16) + i) % len(CLASSES)],
        bbox=box,
        confidence=0.8,
        detection_model="benchmark@1",
        segmentation_model="benchmark@1",
        mask_path=f"{object_id[4:6]}/{object_id[6:8]}/{object_id}-00000000.png",
        polygon=[ring],
        area=5654.0,
        mask_score=0.9,
        embedding=vector,
        embedding_version=None if vector is None else VERSION,
    )


def measure(folder: Path, count: int, batch_size: int, vectors: np.ndarray | None) -> tuple[float, float]:
    """Objects registered and, with vectors, synced: for each second, and each second of processor time."""
    registry = open_registry(f"sqlite:///{folder / 'registry.db'}")
    ensure_version(registry, VERSION, "benchmark", "benchmark", DIMENSION)
    batches = register_images(registry, -(-count // OBJECTS_PER_IMAGE), -(-batch_size // OBJECTS_PER_IMAGE))
    remaining = iter(range(count))
    work = []
    for key, sources in batches:
        labels = [
            label(source, i, None if vectors is None else vectors[n])
            for source in sources
            for i, n in zip(range(OBJECTS_PER_IMAGE), remaining, strict=False)
        ]
        work.append((key, [ids.frame_id(source, 0) for source in sources], labels))
    with ChromaStore(folder / "chroma", VERSION, DIMENSION) as store:
        start, cpu_start = time.perf_counter(), cpu_seconds()
        for key, frames, labels in work:
            register_batch(
                registry, project_id=PROJECT, batch_key=key, run_id="benchmark", frame_ids=frames, objects=labels
            )
            if vectors is not None:
                sync_embeddings(registry, store)
        seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu_start
        check_result(registry, store, count, vectors is not None)
    registry.dispose()
    return round(count / seconds, 1), round(count / cpu, 1)


def check_result(registry: Registry, store: ChromaStore, count: int, embedded: bool) -> None:
    """Raise if what was measured did not do the work."""
    from al_dagster.registry.objects import count_objects

    expected = (count, count if embedded else 0)
    counted = (count_objects(registry, project=PROJECT), store.count())
    if counted != expected or outbox_counts(registry)["pending"]:
        raise RuntimeError(f"expected {expected} objects and vectors, got {counted}, {outbox_counts(registry)}")


def repeat(times: int, count: int, batch_size: int, vectors: np.ndarray | None) -> list[tuple[float, float]]:
    """What several runs measure, each in a folder of its own."""
    figures = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            figures.append(measure(Path(folder), count, batch_size, vectors))
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the result as JSON and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--objects", type=int, default=20_000, help="objects registered without embeddings")
    parser.add_argument("--embedded-objects", type=int, default=10_000, help="objects registered with embeddings")
    parser.add_argument("--batch", type=int, default=1000, help="objects in a batch")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; the best counts")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    runs = {
        "objects_per_s": repeat(options.runs, options.objects, options.batch, None),
        "objects_per_s_with_embeddings": repeat(
            options.runs, options.embedded_objects, options.batch, clustered_vectors(options.embedded_objects)
        ),
    }
    result = {name: max(wall for wall, _ in figures) for name, figures in runs.items()} | {
        "bars": BARS,
        "runs": {name: [wall for wall, _ in figures] for name, figures in runs.items()},
        "per_cpu_second": {name: max(cpu for _, cpu in figures) for name, figures in runs.items()},
        "objects": options.objects,
        "embedded_objects": options.embedded_objects,
        "batch": options.batch,
        "dimension": DIMENSION,
    }
    publish(result, options.json)


if __name__ == "__main__":
    main()
