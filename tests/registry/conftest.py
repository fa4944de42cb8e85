"""A registry for each backend that the platform supports, and a way to fill it."""

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from al_dagster.core import ids
from al_dagster.core.project import ProjectConfig
from al_dagster.registry.database import Registry, open_registry
from al_dagster.registry.labelling import LabelledObject, Registration, register_batch
from al_dagster.registry.projects import save_project
from al_dagster.registry.tables import EmbeddingVersion, Frame, Source


@pytest.fixture(params=["sqlite"])
def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    urls = {"sqlite": f"sqlite:///{tmp_path / 'registry' / 'registry.db'}"}
    return urls[request.param]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite registry to copy, since migrating one for each test takes most of its time."""
    path = tmp_path_factory.mktemp("migrated") / "registry.db"
    open_registry(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture
def registry(registry_url: str, migrated: Path) -> Iterator[Registry]:
    path = Path(registry_url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True)
    shutil.copy(migrated, path)
    opened = open_registry(registry_url)
    yield opened
    opened.dispose()


@pytest.fixture
def parts(registry: Registry) -> str:
    """The project ``parts`` with the embedding version ``tiny_v1`` of four dimensions."""
    save_project(registry, ProjectConfig(name="parts", classes=("nut", "bolt", "washer")))
    with registry.session() as session:
        session.add(EmbeddingVersion(version_id="tiny_v1", model_name="tiny", model_type="test", dimension=4))
    return "parts"


@pytest.fixture
def new_frame(registry: Registry, parts: str) -> Callable[[], str]:
    """Registers another 640×480 image and returns its frame's id."""
    numbers = itertools.count()

    def add() -> str:
        sha256 = hashlib.sha256(str(next(numbers)).encode()).hexdigest()
        source = ids.source_id(sha256)
        frame = ids.frame_id(source, 0)
        with registry.session() as session:
            size = {"width": 640, "height": 480}
            session.add(Source(source_id=source, source_type="image", sha256=sha256, group_key=source, **size))
            session.flush()
            session.add(Frame(frame_id=frame, source_id=source, frame_idx=0, timestamp_ms=0))
        return frame

    return add


@pytest.fixture
def label(registry: Registry) -> Callable[..., LabelledObject]:
    """Makes a label: ``label(frame, box, category="nut", model="m@1", **fields)``; its id follows from these."""

    def make(
        frame: str, box: tuple[float, float, float, float], category: str = "nut", model: str = "m@1", **fields: Any
    ) -> LabelledObject:
        with registry.reader() as session:
            source = session.get_one(Frame, frame).source_id
        values = {
            "object_id": ids.object_id("parts", source, 0, model, box),
            "frame_id": frame,
            "source_id": source,
            "category": category,
            "bbox": box,
            "confidence": 0.8,
            "detection_model": model,
        }
        return LabelledObject(**{**values, **fields})

    return make


@pytest.fixture
def contents(registry: Registry) -> Callable[[], dict[str, list[tuple[Any, ...]]]]:
    """Reads everything that is in the registry, to compare before and after."""

    def read() -> dict[str, list[tuple[Any, ...]]]:
        tables = (
            "sources",
            "frames",
            "categories",
            "objects",
            "conflicts",
            "embedding_outbox",
            "batches",
            "batch_files",
        )
        with registry.reader() as session:
            return {
                table: [tuple(row) for row in session.execute(text(f"SELECT * FROM {table} ORDER BY 1"))]
                for table in tables
            }

    return read


@pytest.fixture
def frame(new_frame: Callable[[], str]) -> str:
    """The id of the frame of an image of 640×480."""
    return new_frame()


@pytest.fixture
def register(registry: Registry, parts: str, frame: str) -> Callable[..., Registration]:
    """Registers labels of the frame as a batch."""

    def run(*labels: LabelledObject) -> Registration:
        batch = {"project_id": parts, "batch_key": "parts--1", "run_id": "run-1", "frame_ids": [frame]}
        return register_batch(registry, objects=labels, **batch)

    return run
