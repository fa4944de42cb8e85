"""The stages of the chain one after the other, without Dagster, on the real embedded models."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from al_dagster.core.project import ProjectConfig
from al_dagster.core.schemas import LAKE_SCHEMAS
from al_dagster.labelling.classify import classify_objects
from al_dagster.labelling.detect import detect
from al_dagster.labelling.embed import embed
from al_dagster.labelling.index import index_vectors
from al_dagster.labelling.ingest import frame, ingest
from al_dagster.labelling.intake import take_folder
from al_dagster.labelling.masks import RunMasks
from al_dagster.labelling.models import environment, project_models
from al_dagster.labelling.register import register
from al_dagster.labelling.segment import segment
from al_dagster.labelling.stage import StageResult
from al_dagster.media.loader import ImageLoader
from al_dagster.registry.batches import batch_manifest, mark_labelled
from al_dagster.registry.database import Registry, open_registry
from al_dagster.registry.masks import MaskStore
from al_dagster.vectors.chroma import ChromaStore
from al_dagster.vision.profiles import Models

MAX_PIXELS = 10_000_000


@dataclass
class Chain:
    """The last table of each stage, and how to run a stage again."""

    registry: Registry
    masks: RunMasks
    images: ImageLoader
    models: Models
    project: ProjectConfig
    key: str
    tables: dict[str, pa.Table] = field(default_factory=dict)

    def last(self, stage: str) -> pa.Table:
        return self.tables.get(stage, LAKE_SCHEMAS[stage].empty_table())

    def _keep(self, stage: str, result: StageResult) -> StageResult:
        self.tables[stage] = result.table
        return result

    def sources(self, root: Path | None = None) -> StageResult:
        result = ingest(
            self.registry,
            self.key,
            batch_manifest(self.registry, self.key),
            self.last("sources"),
            images=self.images,
            root=root,
            max_pixels=MAX_PIXELS,
            duplicate_distance=6,
        )
        return self._keep("sources", result)

    def frames(self) -> StageResult:
        return self._keep("frames", frame(self.registry, self.last("sources")))

    def detections(self) -> StageResult:
        result = detect(
            self.last("frames"),
            self.last("detections"),
            detector=self.models.detector,
            project=self.project,
            images=self.images,
        )
        return self._keep("detections", result)

    def mask_table(self) -> StageResult:
        result = segment(
            self.last("frames"),
            self.last("detections"),
            self.last("masks"),
            segmenter=self.models.segmenter,
            masks=self.masks,
            images=self.images,
        )
        return self._keep("masks", result)

    def embeddings(self) -> StageResult:
        result = embed(
            self.last("frames"),
            self.last("detections"),
            self.last("masks"),
            self.last("embeddings"),
            embedder=self.models.embedder,
            masks=self.masks,
            images=self.images,
        )
        return self._keep("embeddings", result)

    def classifications(self) -> StageResult:
        result = classify_objects(
            self.last("detections"),
            self.last("masks"),
            self.last("embeddings"),
            self.last("classifications"),
            registry=self.registry,
            project=self.project,
            models=self.models,
            masks=self.masks,
            max_pixels=MAX_PIXELS,
        )
        return self._keep("classifications", result)

    def objects(self, run_id: str = "run") -> StageResult:
        stages = ("frames", "detections", "masks", "embeddings", "classifications")
        result = register(
            self.registry,
            batch_key=self.key,
            run_id=run_id,
            project=self.project,
            models=self.models,
            **{stage: self.last(stage) for stage in stages},
        )
        return self._keep("objects", result)

    def finish(self) -> None:
        """The last stage, and what it does once its table is stored."""
        index_vectors(self.registry, partial(ChromaStore, self.masks.root.parent / "chroma"), self.key)
        mark_labelled(self.registry, self.key)

    def up_to(self, stage: str) -> StageResult:
        """Run all stages up to this one; its result."""
        steps = ("sources", "frames", "detections", "mask_table", "embeddings", "classifications", "objects")
        for step in steps[: steps.index(stage) + 1]:
            result = getattr(self, step)()
        return result


@pytest.fixture
def chain(home) -> Iterator[Chain]:
    """A claimed batch of two pictures that show a disc and a bar each."""
    project = home.project()
    with open_registry(home.settings.database_url) as registry, ImageLoader(MAX_PIXELS, 64) as images:
        (key,) = take_folder(registry, home.pictures(2), project, batch_size=256)
        with project_models(project, environment(home.settings)) as models:
            yield Chain(registry, RunMasks(MaskStore(home.settings.masks_dir)), images, models, project, key)
