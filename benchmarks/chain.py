"""The platform's labelling stages over checkpoints with random weights, as ``models.py`` measures them."""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import supervision as sv
from objects_on_noise import HEIGHT, OBJECTS, WIDTH, boxes_of

from al_dagster.core.project import parse_project
from al_dagster.core.schemas import DETECTIONS, EMBEDDINGS, FRAMES, MASKS
from al_dagster.labelling.detect import detect
from al_dagster.labelling.embed import embed
from al_dagster.labelling.masks import RunMasks
from al_dagster.labelling.segment import segment
from al_dagster.media.loader import ImageLoader
from al_dagster.registry.masks import MaskStore
from al_dagster.vision.dinov2 import DinoV2Embedder
from al_dagster.vision.florence2 import Florence2Detector
from al_dagster.vision.sam2 import Sam2Segmenter
from al_dagster.vision.torch_runtime import Runtime
from al_dagster.vision.weights import Weights, record


class Chain:
    """The stages ``detect``, ``segment`` and ``embed`` over some images.

    Args:
        folder: the checkpoints, a folder each.
        home: where masks are written.
        paths: the images, of 1024×768.
        phrase: what the detector is asked for.
        tokens: length of its answers.
        runtime: where the models run.
    """

    def __init__(
        self, folder: Path, home: Path, paths: Sequence[Path], *, phrase: str, tokens: int, runtime: Runtime
    ) -> None:
        def weights(name: str) -> Weights:
            return record(folder / name, name, origin="random weights")

        florence2 = Florence2Detector(weights("florence-2-large"), runtime, max_new_tokens=tokens)
        self.detector = FixedBoxes(florence2)
        self.segmenter = Sam2Segmenter(weights("sam2.1-hiera-base-plus"), runtime)
        self.embedder = DinoV2Embedder(weights("dinov2-base"), runtime, "dinov2_base_v1")
        self.project = parse_project({"name": "benchmark", "classes": [phrase]}, "the benchmark")
        self.home = home
        self.frames = pa.Table.from_pylist(
            [
                {
                    "frame_id": f"frm_{index:012d}",
                    "source_id": f"src_{index:012d}",
                    "frame_idx": 0,
                    "timestamp_ms": 0,
                    "file_path": str(path),
                    "sha256": f"{index:064d}",
                    "size_bytes": path.stat().st_size,
                    "mtime_ns": path.stat().st_mtime_ns,
                    "width": WIDTH,
                    "height": HEIGHT,
                }
                for index, path in enumerate(paths)
            ],
            schema=FRAMES,
        )

    def load(self) -> float:
        """Load every model; returns the seconds it took."""
        start = time.perf_counter()
        for model in (self.detector, self.segmenter, self.embedder):
            model.load()
        return time.perf_counter() - start

    def run(self, count: int) -> int:
        """Label the first images with nothing kept from before; returns the objects embedded."""
        frames = self.frames.slice(0, count)
        masks = RunMasks(MaskStore(Path(tempfile.mkdtemp(dir=self.home))))
        with ImageLoader(10**9, cache_mb=1024, workers=os.cpu_count() or 1) as images:
            self.detector.start()
            found = detect(
                frames, DETECTIONS.empty_table(), detector=self.detector, project=self.project, images=images
            ).table
            cut = segment(
                frames, found, MASKS.empty_table(), segmenter=self.segmenter, masks=masks, images=images
            ).table
            return embed(
                frames, found, cut, EMBEDDINGS.empty_table(), embedder=self.embedder, masks=masks, images=images
            ).computed


class FixedBoxes:
    """Florence-2, asked like any detector, whose answers are replaced by the fixed boxes of the image."""

    least_confidence = 0.0

    def __init__(self, detector: Any) -> None:
        self._detector, self._seen = detector, 0
        self.model_id, self.revision = detector.model_id, detector.revision
        self.images_per_call = detector.images_per_call

    def start(self) -> None:
        """Begin at the first image again."""
        self._seen = 0

    def load(self) -> None:
        """Load the detector."""
        self._detector.load()

    def check_prompts(self, prompts: Sequence[Any]) -> None:
        """Have the detector check the prompts."""
        self._detector.check_prompts(prompts)

    def detect(self, images: Sequence[np.ndarray], prompts: Sequence[Any]) -> list[Any]:
        """Ask the detector, and give the fixed boxes."""
        self._detector.detect(images, prompts)
        start, self._seen = self._seen, self._seen + len(images)
        return [
            sv.Detections(
                xyxy=boxes_of(start + place).astype(np.float32),
                confidence=np.linspace(0.9, 0.5, OBJECTS, dtype=np.float32),
                class_id=np.zeros(OBJECTS, dtype=int),
            )
            for place in range(len(images))
        ]
