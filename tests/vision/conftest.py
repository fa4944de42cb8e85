from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A thread of torch, since the processes of the suite share the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def half_precision() -> Any:
    """A CPU that computes in the precision of a GPU."""
    import torch

    from al_dagster.vision.torch_runtime import Runtime

    class HalfPrecision(Runtime):
        def dtype(self) -> torch.dtype:
            return torch.bfloat16

    return HalfPrecision("cpu")


@pytest.fixture
def read_rgb() -> Callable[[Path], NDArray[np.uint8]]:
    def read(path: Path) -> NDArray[np.uint8]:
        from al_dagster.core.errors import UserError

        image = cv2.imread(str(path))
        if image is None:
            raise UserError(f"{path}: is not an image")
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    return read


@pytest.fixture
def tabletop() -> NDArray[np.uint8]:
    """A noisy, unevenly lit brown table with a grey disc and a grey bar, each with a shadow: (240, 320, 3)."""
    rng = np.random.default_rng(3)
    light = np.linspace(0.75, 1.1, 320)[None, :, None] * np.linspace(1.05, 0.85, 240)[:, None, None]
    table = np.array([150.0, 105.0, 65.0]) * light
    shadow = np.zeros((240, 320), np.float32)
    cv2.circle(shadow, (88, 92), 27, 1.0, -1)
    cv2.rectangle(shadow, (189, 128), (289, 156), 1.0, -1)
    table *= 1 - 0.4 * cv2.GaussianBlur(shadow, (0, 0), 3)[..., None]
    cv2.circle(table, (80, 85), 27, (170, 172, 176), -1)
    cv2.rectangle(table, (180, 120), (280, 148), (150, 152, 156), -1)
    table = cv2.GaussianBlur(table, (0, 0), 0.7) + rng.normal(0, 3, table.shape)
    return np.clip(table, 0, 255).astype(np.uint8)


DISC = (53, 58, 108, 113)
BAR = (180, 120, 281, 149)


@pytest.fixture
def disc_and_bar() -> NDArray[np.float64]:
    """The boxes of the two things on the table, x1, y1, x2, y2."""
    return np.array([DISC, BAR], dtype=np.float64)


@pytest.fixture
def blood_cells() -> Callable[[float], tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Draws reddish cells in rows 40 pixels apart on an unevenly lit, pale slide.

    The argument is the cells' diameter as a share of that distance; the image is (240, 320, 3), and what belongs to a
    cell (240, 320). The first cell's centre is at (20, 20).
    """

    def draw(diameter: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        rng = np.random.default_rng(5)
        slide = np.array([196.0, 195.0, 192.0]) * np.linspace(0.97, 1.03, 320)[None, :, None] * np.ones((240, 1, 1))
        cells = np.zeros((240, 320), np.uint8)
        for y in range(20, 240, 40):
            for x in range(20, 320, 40):
                cv2.circle(cells, (x, y), round(20 * diameter), 1, -1)
        tones = rng.uniform(0.9, 1.1, (6, 8))[np.arange(240)[:, None] // 40, np.arange(320)[None, :] // 40]
        slide = np.where(cells[..., None] > 0, np.array([182.0, 150.0, 152.0]) * tones[..., None], slide)
        slide = cv2.GaussianBlur(slide, (0, 0), 0.8) + rng.normal(0, 1.5, slide.shape)
        return np.clip(slide, 0, 255).astype(np.uint8), cells > 0

    return draw
