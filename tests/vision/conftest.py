from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray


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
