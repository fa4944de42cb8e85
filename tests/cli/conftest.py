"""A small project, labelled once by the installed command, and two ways to call the command."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw

from al_dagster.cli import main

AL = Path(sys.executable).with_name("al")
COLOURS = {"square": (200, 20, 20), "disc": (30, 160, 30)}


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out, self.err
        return json.loads(self.out)


@dataclass(frozen=True)
class Place:
    """An AL_HOME with a labelled project named shapes, its images and its examples."""

    home: Path
    images: Path
    support: Path
    ingested: list[dict[str, Any]]

    @property
    def environment(self) -> dict[str, str]:
        return _environment(self.home)

    def al(self, *arguments: object) -> Said:
        return _run(self.home, *arguments)


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AL_", "DAGSTER_"))}
    return {**kept, "AL_HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


def _run(home: Path, *arguments: object) -> Said:
    done = subprocess.run(
        [AL, *map(str, arguments)], env=_environment(home), cwd=home.parent, capture_output=True, text=True, timeout=240
    )
    return Said(done.returncode, done.stdout, done.stderr)


def _draw_shapes(path: Path, seed: int) -> None:
    """A red square and a green disc on a grainy ground; a BMP has the same bytes, so the same split, everywhere."""
    random = np.random.default_rng(seed)
    image = Pillow.fromarray(random.integers(195, 206, (120, 160, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    x, y = (int(value) for value in random.integers(8, 30, 2))
    draw.rectangle((x, y, x + 40, y + 40), fill=COLOURS["square"])
    draw.ellipse((x + 75, y + 20, x + 107, y + 52), fill=COLOURS["disc"])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _draw_support(folder: Path) -> None:
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for edge in (2, 4):
            image = Pillow.new("RGB", (48, 48), (200, 200, 200))
            draw = ImageDraw.Draw(image)
            shape = draw.rectangle if name == "square" else draw.ellipse
            shape((edge, edge, 47 - edge, 47 - edge), fill=colour)
            image.save(folder / name / f"{edge}.png")


@pytest.fixture(scope="session")
def draw_shapes() -> Callable[[Path, int], None]:
    """Draws an image of a square and a disc, another for each seed."""
    return _draw_shapes


@pytest.fixture(scope="session")
def al() -> Callable[..., Said]:
    """Calls the installed command with an AL_HOME."""
    return _run


@pytest.fixture(scope="session")
def labelled_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Four images and a text named .jpg, labelled once; only to be copied."""
    root = tmp_path_factory.mktemp("place")
    images, support, home = root / "images", root / "examples", root / "home"
    for seed in range(4):
        _draw_shapes(images / f"{seed}.bmp", seed)
    (images / "text.jpg").write_text("no image")
    _draw_support(support)
    said = _run(home, "ingest", images, "-p", "shapes", "-c", "square,disc", "--support", support, "--json")
    assert said.status == 0, said.err
    return Place(home, images, support, said.json)


@pytest.fixture
def place(labelled_place: Place, tmp_path: Path) -> Place:
    """A place whose home is the test's own, which it may change; images and examples are those of all tests."""
    return replace(labelled_place, home=Path(shutil.copytree(labelled_place.home, tmp_path / "place")))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Callable]:
    """Calls the command in this process: ``here(*arguments, home=…)``; the home is a new folder if left out."""

    def call(*arguments: object, home: Path = tmp_path / "home") -> Said:
        monkeypatch.setenv("AL_HOME", str(home))
        monkeypatch.setattr(sys, "argv", ["al", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    yield call
    signal.set_wakeup_fd(-1)
