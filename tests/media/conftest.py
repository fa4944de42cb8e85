"""Pictures drawn for the tests of the media room."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

DrawPicture = Callable[..., NDArray[np.uint8]]


@pytest.fixture(scope="session")
def draw() -> DrawPicture:
    """Draws a picture without symmetry, of the given height and width: its four quarters differ, with a gradient."""

    def drawn(height: int = 48, width: int = 64, seed: int = 0) -> NDArray[np.uint8]:
        rows, columns = np.mgrid[:height, :width]
        noise = np.random.default_rng(seed).integers(0, 40, (height, width))
        red = np.where(rows < height / 2, 200, 40) + noise // 4
        green = np.where(columns < width / 2, 180, 30) + noise // 4
        blue = columns * 200 // max(1, width - 1) + noise
        return np.stack([red, green, blue], axis=2).clip(0, 255).astype(np.uint8)

    return drawn


@pytest.fixture
def photo(tmp_path: Path, draw: DrawPicture) -> Callable[..., Path]:
    """Saves a drawn picture under a name in the test's folder; options go to Pillow."""

    def saved(name: str = "photo.jpg", height: int = 48, width: int = 64, seed: int = 0, **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(height, width, seed)).save(path, **options)
        return path

    return saved
