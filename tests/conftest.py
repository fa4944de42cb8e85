"""A home of its own with small drawn pictures that the embedded models label for real, for the tests of the chain."""

import hashlib
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import structlog
from hypothesis import settings as hypothesis_settings
from numpy.typing import NDArray

from al_dagster.core.logging import PACKAGE, UNITS
from al_dagster.core.project import ProjectConfig, parse_project
from al_dagster.core.settings import Settings, load_settings

if TYPE_CHECKING:
    from al_dagster.registry.database import Registry

SLOW_LAST = ("labelling", "datasets", "automation", "assets", "training", "benchmarks", "demo", "e2e")
"""Rooms whose tests run last, the slowest at the end."""

# How long an example takes says how busy the machine is.
hypothesis_settings.register_profile("patient", deadline=None)
hypothesis_settings.load_profile("patient")

# A shell starts what runs in the background with Ctrl-C ignored, which every child would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HEIGHT, WIDTH = 120, 160
COLOURS = {"disc": (200, 40, 40), "bar": (30, 40, 190)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast rooms first, so that a mistake shows early."""

    def rank(item: pytest.Item) -> int:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        return SLOW_LAST.index(room) + 1 if room in SLOW_LAST else 0

    items.sort(key=rank)


@pytest.fixture(autouse=True)
def _process_as_found() -> Iterator[None]:
    """What a test, or a command that it calls, sets for the whole process ends with it: its home, and the logging."""
    environment = _environment()
    levels = {name: logging.getLogger(name).level for name in (PACKAGE, UNITS)}
    handlers = list(logging.getLogger().handlers)
    yield
    for name in _environment().keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    structlog.reset_defaults()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    for handler in set(logging.getLogger().handlers) - set(handlers):
        logging.getLogger().removeHandler(handler)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(("AL_", "DAGSTER_"))}


def draw_shapes(seed: int, parts: tuple[tuple[str, int, int], ...] | None = None) -> NDArray[np.uint8]:
    """A noisy grey table of 160×120 pixels with a red disc on the left and a blue bar on the right, or other parts."""
    rng = np.random.default_rng(seed)
    if parts is None:
        parts = (
            ("disc", int(rng.integers(30, 50)), int(rng.integers(30, 90))),
            ("bar", int(rng.integers(108, 125)), int(rng.integers(30, 90))),
        )
    image = np.full((HEIGHT, WIDTH, 3), (150, 160, 150), np.uint8)
    for kind, x, y in parts:
        if kind == "disc":
            cv2.circle(image, (x, y), 17, COLOURS[kind], -1)
        else:
            cv2.rectangle(image, (x - 22, y - 7), (x + 22, y + 7), COLOURS[kind], -1)
    return (image + rng.integers(-6, 7, image.shape)).clip(0, 255).astype(np.uint8)


def write_picture(path: Path, image: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
    return path


@dataclass(frozen=True)
class Home:
    """A temporary ``AL_HOME`` and what a test puts into it."""

    settings: Settings
    support: Path

    @property
    def path(self) -> Path:
        return self.settings.home

    def project(self, name: str = "shapes", **values: object) -> ProjectConfig:
        given = {"classes": ["disc", "bar"], "support": self.support, "classification": {"threshold": 0.4}}
        return parse_project({"name": name, **given, **values}, "the test")

    def pictures(self, count: int, folder: str = "images", first: int = 0) -> Path:
        """Draw pictures into a folder of the home; each shows a disc and a bar."""
        for seed in range(first, first + count):
            write_picture(self.path / folder / f"picture_{seed}.png", draw_shapes(seed))
        return self.path / folder


@pytest.fixture(scope="session")
def shapes() -> Callable[..., NDArray[np.uint8]]:
    """Draws a picture; see ``draw_shapes``."""
    return draw_shapes


@pytest.fixture(scope="session")
def save_picture() -> Callable[[Path, NDArray[np.uint8]], Path]:
    """Writes a picture under a path whose extension says how."""
    return write_picture


def damage_file(path: Path, how: str) -> None:
    """Spoil a file as disks and people do: ``emptied``, ``cut off``, ``flipped`` or ``other magic``."""
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    spoiled = {"emptied": b"", "cut off": content[:-9], "flipped": flipped, "other magic": b"GIF8" + content[4:]}
    path.write_bytes(spoiled[how])


@pytest.fixture(scope="session")
def spoil() -> Callable[[Path, str], None]:
    """Spoils a file; see ``damage_file``."""
    return damage_file


@pytest.fixture(scope="session")
def support_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three example pictures of each class."""
    folder = tmp_path_factory.mktemp("support")
    for kind in COLOURS:
        for shot in range(3):
            image = draw_shapes(1000 + shot, ((kind, 80, 60),))[34:86, 54:106]
            write_picture(folder / kind / f"{shot}.png", image)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, support_folder: Path) -> Home:
    """A temporary ``AL_HOME`` that is the environment's; files of the inbox are taken at once."""
    monkeypatch.setenv("AL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    settings = load_settings()
    settings.home.mkdir()
    return Home(settings, support_folder)


def register_reviewed(
    registry: "Registry",
    outcomes: Sequence[tuple[float, bool | None]],
    *,
    project: str = "shapes",
    model: str = "m@1",
    category: str = "disc",
    first: int = 0,
) -> list[str]:
    """Register objects of these confidences, five an image, and review them: right, deleted, or None for not at all.

    ``first`` is the number of the first image, so that another call makes other images. Returns the objects' ids.
    """
    from al_dagster.core import ids
    from al_dagster.registry.labelling import LabelledObject, register_batch
    from al_dagster.registry.review import delete_objects, validate_objects
    from al_dagster.registry.tables import Frame, Source

    labels, frames = [], []
    with registry.session() as session:
        for start in range(0, len(outcomes), 5):
            source = ids.source_id(hashlib.sha256(f"{project} {first + start // 5}".encode()).hexdigest())
            frames.append(ids.frame_id(source, 0))
            session.add(Source(source_id=source, source_type="image", group_key=source, width=640, height=480))
            session.flush()
            session.add(Frame(frame_id=frames[-1], source_id=source, frame_idx=0, timestamp_ms=0))
            for place, (confidence, _) in enumerate(outcomes[start : start + 5]):
                box = (place * 100.0, 50.0, 60.0, 60.0)
                name = ids.object_id(project, source, 0, model, box)
                labels.append(LabelledObject(name, frames[-1], source, category, box, confidence, model))
    batch = {"project_id": project, "batch_key": f"{project}--{first}", "run_id": "run", "frame_ids": frames}
    register_batch(registry, objects=labels, **batch)
    named = [label.object_id for label in labels]
    validate_objects(registry, [name for name, (_, right) in zip(named, outcomes, strict=True) if right], "ann")
    for name, (_, right) in zip(named, outcomes, strict=True):
        if right is False:
            delete_objects(registry, [name], "ann")
    return named


@pytest.fixture(scope="session")
def add_reviewed() -> Callable[..., list[str]]:
    """Registers objects and reviews them; see ``register_reviewed``."""
    return register_reviewed


@pytest.fixture(scope="session")
def some_outcomes() -> Callable[..., list[tuple[float, bool | None]]]:
    """Outcomes of an overconfident detector, drawn with a seed: ``some_outcomes(count, seed=0)``.

    An object of confidence c is right with a probability of c², but always from 0.7 on.
    """

    def draw(count: int, seed: int = 0) -> list[tuple[float, bool | None]]:
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.3, 1.0, count).round(6)
        right = (confidence >= 0.7) | (rng.random(count) < confidence**2)
        return list(zip(confidence.tolist(), right.tolist(), strict=True))

    return draw
