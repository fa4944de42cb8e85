"""Pictures with eight objects each, drawn on noise, for the benchmarks of the foundation models."""

from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, OBJECTS = 1024, 768, 8


def boxes_of(index: int) -> np.ndarray:
    """Eight boxes of an image that do not touch, one in each cell of a grid: (8, 4) x1, y1, x2, y2 in pixels."""
    random = np.random.default_rng(index)
    size = random.uniform(60, 250, (OBJECTS, 2))
    cells = np.array([(x, y) for y in range(0, HEIGHT, HEIGHT // 2) for x in range(0, WIDTH, WIDTH // 4)])
    corner = cells + random.uniform(0, [WIDTH // 4 - 251, HEIGHT // 2 - 251], (OBJECTS, 2))
    return np.concatenate([corner, corner + size], axis=1).round(2)


def write_images(folder: Path, count: int) -> list[Path]:
    """Draw JPEGs with shapes and noise."""
    folder.mkdir()
    paths = []
    for index in range(count):
        random = np.random.default_rng(index)
        picture = random.normal(128, 12, (HEIGHT, WIDTH, 3))
        for x1, y1, x2, y2 in boxes_of(index).astype(int):
            picture[y1:y2, x1:x2] += random.uniform(-90, 90, 3)
        paths.append(folder / f"{index:05d}.jpg")
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths
