"""A project with drawn images and labels in a real registry."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from al_dagster.core.hashing import file_sha256
from al_dagster.core.ids import frame_id, object_id, source_id
from al_dagster.core.lake import Lake
from al_dagster.core.project import ProjectConfig
from al_dagster.core.rle import encode
from al_dagster.datasets.build import BuiltDataset, build_dataset
from al_dagster.datasets.definition import DatasetDefinition
from al_dagster.media.inspection import inspect_file
from al_dagster.registry.batches import FileEntry, claim_files, mark_labelled, record_run
from al_dagster.registry.database import Registry, open_registry
from al_dagster.registry.frame_labels import FrameOutcome, mark_background, record_frames
from al_dagster.registry.labelling import LabelledObject, register_batch
from al_dagster.registry.projects import save_project
from al_dagster.registry.sources import register_frames, register_sources
from al_dagster.vision.polygons import mask_polygons
from al_dagster.vision.protocols import Mask

MAX_PIXELS = 10_000_000
DISTANCE = 6

Label = tuple[str, tuple[float, float, float, float], float]
"""Category, box x, y, w, h in pixels, confidence."""


@dataclass
class Lab:
    """A project named parts, with nuts, bolts and washers."""

    root: Path
    registry: Registry
    masks: dict[str, Mask] = field(default_factory=dict)
    max_pixels: int = MAX_PIXELS
    distance: int = DISTANCE

    def definition(self, **values: Any) -> DatasetDefinition:
        return DatasetDefinition.model_validate({"name": "parts", "project": "parts", **values})

    @property
    def lake(self) -> Lake:
        return Lake(str(self.root / "lake"))

    def build(self, **values: Any) -> BuiltDataset:
        """Build the definition with these values."""
        return self.freeze(self.definition(**values))

    def freeze(self, definition: DatasetDefinition) -> BuiltDataset:
        return build_dataset(
            self.registry,
            definition,
            lake=self.lake,
            masks_dir=self.root / "masks",
            duplicate_distance=self.distance,
            run_id="run-1",
        )

    def outcome(
        self, path: Path, *, project: str = "parts", classes: Sequence[str] | None = None, **outcome: Any
    ) -> None:
        """Note what labelling a file's only frame came to."""
        record_frames(self.registry, project, "batch", {self.frame(path): FrameOutcome(**outcome)}, classes)

    def mark_background(self, path: Path) -> None:
        mark_background(self.registry, "parts", [self.frame(path)], "ann")

    @staticmethod
    def frame(path: Path) -> str:
        """The id of the only frame of a file."""
        return frame_id(source_id(file_sha256(path)), 0)

    def draw(self, name: str, seed: int, size: tuple[int, int] = (96, 64), **options: Any) -> Path:
        """An image file that resembles no other of another seed."""
        blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = self.root / "inbox" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(blocks).resize(size, Pillow.Resampling.BICUBIC).save(path, **options)
        return path

    def label(
        self,
        labels: Mapping[Path, Sequence[Label]],
        *,
        hashes: Mapping[Path, str] | None = None,
        register: bool = True,
        project: str = "parts",
    ) -> dict[Path, str]:
        """Register files as one batch, and their labels unless told otherwise; gives the source id of each file."""
        rows = [inspect_file(path, root=None, max_pixels=self.max_pixels) for path in labels]
        for row in rows:
            row["perceptual_hash"] = (hashes or {}).get(Path(row["file_path"]), row["perceptual_hash"])
        entries = [FileEntry(row["file_path"], row["size_bytes"], row["mtime_ns"]) for row in rows]
        (batch,) = claim_files(self.registry, project, entries, 256)
        register_sources(self.registry, batch, rows, self.distance)
        ready = [row for row in rows if row["status"] == "ready"]
        frames = {row["source_id"]: frame_id(row["source_id"], 0) for row in ready}
        register_frames(
            self.registry,
            [
                {"frame_id": frame, "source_id": source, "frame_idx": 0, "timestamp_ms": 0}
                for source, frame in frames.items()
            ],
        )
        if register:
            objects = [
                self._object(project, row["source_id"], label, (row["width"], row["height"]))
                for row in ready
                for label in labels[Path(row["file_path"])]
            ]
            register_batch(
                self.registry,
                project_id=project,
                batch_key=batch,
                run_id="run",
                frame_ids=list(frames.values()),
                objects=objects,
            )
            record_frames(self.registry, project, batch, dict.fromkeys(frames.values(), FrameOutcome()))
            record_run(self.registry, batch, run_id="run", parameters={})
            mark_labelled(self.registry, batch)
        return {Path(row["file_path"]): row["source_id"] for row in ready}

    def fill(self, count: int, start: int = 0) -> dict[Path, str]:
        """Register ``count`` images with a nut and a bolt each; the nut has a mask."""
        labels: dict[Path, list[Label]] = {}
        for seed in range(start, start + count):
            path = self.draw(f"{seed:03d}.{'jpg' if seed % 2 else 'png'}", seed)
            labels[path] = [("nut", (4.25, 5.5, 20, 15 + seed % 7), 0.9), ("bolt", (40, 20, 33.3, 12.7), 0.6)]
        return self.label(labels)

    def _object(self, project: str, source: str, label: Label, size: tuple[int, int]) -> LabelledObject:
        category, (x, y, w, h), confidence = label
        mask = self.masks.get(category, _disc(x, y, w, h))
        return LabelledObject(
            object_id(project, source, 0, f"model-{category}", (x, y, w, h)),
            frame_id(source, 0),
            source,
            category,
            (x, y, w, h),
            confidence,
            "model@1",
            polygon=mask_polygons(mask) if category == "nut" else None,
            mask_rle=encode(mask.pixels, mask.x, mask.y, *size) if category == "nut" else None,
            area=float(mask.area) if category == "nut" else None,
        )


def _disc(x: float, y: float, w: float, h: float) -> Mask:
    """A disc with a hole, in the pixels that a box touches."""
    left, top = max(0, int(x)), max(0, int(y))
    columns, rows = np.arange(left, int(np.ceil(x + w))) + 0.5, np.arange(top, int(np.ceil(y + h))) + 0.5
    radius = ((columns - x - w / 2) / w) ** 2 + ((rows[:, None] - y - h / 2) / h) ** 2
    return Mask((radius <= 0.25) & (radius > 0.02), left, top, 1.0)


def _labs(folder: Path) -> Iterator[Callable[[str], Lab]]:
    labs: list[Lab] = []

    def make(name: str) -> Lab:
        root = folder / name
        registry = open_registry(f"sqlite:///{root / 'registry.db'}")
        save_project(registry, ProjectConfig(name="parts", classes=("nut", "bolt", "washer")))
        labs.append(Lab(root, registry))
        return labs[-1]

    yield make
    for lab in labs:
        lab.registry.dispose()


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[Callable[[str], Lab]]:
    """Makes a lab in a folder of its own."""
    yield from _labs(tmp_path)


@pytest.fixture(scope="module")
def make_module_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Lab]]:
    """Makes a lab that the tests of a module share and must not change."""
    yield from _labs(tmp_path_factory.mktemp("labs"))


@pytest.fixture
def lab(make_lab: Callable[[str], Lab]) -> Lab:
    return make_lab("lab")
