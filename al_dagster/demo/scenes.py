"""Draws scenes of parts on a table, with the truth about them, and the example pictures of each class.

Every scene has cast shadows, uneven light, vignetting, sensor noise, a slight blur, parts at any angle that touch and
partly cover each other, and things that are no parts. The same index and seed give the same scene.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from al_dagster.demo.camera import HEIGHT, WIDTH, Placed, draw_light, photograph
from al_dagster.demo.files import write_if_changed
from al_dagster.demo.parts import CLASSES, FINISHES, Light, Sprite, draw_part
from al_dagster.vision.protocols import Image

JPEG_QUALITY = 90
BACKGROUND = "_background"
"""Folder of the support set with pictures of the table that hold no part."""

_SCENES, _SUPPORT = 0, 1  # streams of random numbers: no example picture comes from a scene that is scored
_EDGE = 5  # pixels between a part and the picture's edge
_GAP = 5  # pixels between parts that stand alone
_LEAST_VISIBLE = 0.75
_LOOKS = 400  # crops of an empty table among which the background picture is chosen


@dataclass(frozen=True)
class Part:
    """A part of a scene.

    Args:
        label: one of ``CLASSES``.
        box: x, y, w, h in pixels: the tight box of the pixels that can be seen of it.
        mask: (h, w), bool: the pixels of the box that belong to it.
        occluded: whether another part covers some of it.
    """

    label: str
    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    occluded: bool


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Args:
        image: (480, 640, 3), uint8, RGB.
        parts: what lies on the table, bottom to top.
    """

    image: Image
    parts: list[Part]


def draw_scene(index: int, seed: int = 0) -> Scene:
    """Draw scene ``index`` of the series ``seed``: 8–12 parts of all four classes on a table."""
    rng = np.random.default_rng([seed, _SCENES, index])
    light = draw_light(rng)
    labels = [*CLASSES, *CLASSES, *rng.choice(CLASSES, int(rng.integers(0, 5)))]
    rng.shuffle(labels)
    placed = _arrange([str(label) for label in labels], light, rng)
    return Scene(photograph(placed, light, rng), _truth(placed))


def write_scenes(folder: Path, count: int, seed: int = 0, *, truth_path: Path) -> Path:
    """Write scenes as ``scene_0000.jpg`` … (640×480, JPEG) and the truth about them as one COCO file.

    Files that hold the same content already are left untouched, with their modification times.

    Args:
        folder: where the pictures go.
        count: number of scenes.
        seed: the series.
        truth_path: the COCO file, outside ``folder``; categories are numbered from 1 in the order of ``CLASSES``,
            and annotations carry ``occluded`` (bool).

    Returns:
        ``truth_path``.
    """
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for index in range(count):
        scene = draw_scene(index, seed)
        name = f"scene_{index:04d}.jpg"
        write_if_changed(folder / name, _jpeg(scene.image))
        images.append({"id": index + 1, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for part in scene.parts:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": CLASSES.index(part.label) + 1,
                    "bbox": list(part.box),
                    "area": int(part.mask.sum()),
                    "iscrowd": 0,
                    "occluded": part.occluded,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    write_if_changed(truth_path, json.dumps(truth, indent=1).encode())
    return truth_path


def write_support(folder: Path, shots: int = 5, seed: int = 0) -> list[Path]:
    """Write example pictures: a folder a class, and ``_background`` with pictures that hold no part.

    Each example is cut, with a margin of 10–15 % of table, from a table of its own on which one part lies, and the
    examples of a class go through the finishes in turn, as a person would choose them. No table of the scenes of
    ``write_scenes`` is used. Files with the same content are left untouched.

    Args:
        folder: where the class folders go.
        shots: number of pictures a folder.
        seed: the series.

    Returns:
        The files, sorted.
    """
    files = []
    for shot in range(shots):
        for number, label in enumerate((*CLASSES, BACKGROUND)):
            rng = np.random.default_rng([seed, _SUPPORT, number, shot])
            crop = _background(rng) if label == BACKGROUND else _example(label, FINISHES[shot % len(FINISHES)], rng)
            path = folder / label / f"{label.strip('_')}_{shot + 1}.jpg"
            write_if_changed(path, _jpeg(crop))
            files.append(path)
    return sorted(files)


def _example(label: str, finish: str, rng: np.random.Generator) -> Image:
    light = draw_light(rng)
    sprite = draw_part(label, light, rng, finish)
    height, width = sprite.alpha.shape
    x, y = int(rng.integers(40, WIDTH - width - 40)), int(rng.integers(40, HEIGHT - height - 40))
    placed = [Placed(sprite, x, y, 0)]
    image = photograph(placed, light, rng)
    x, y, w, h = _truth(placed)[0].box
    margin = int(np.ceil(rng.uniform(0.10, 0.15) * max(w, h)))
    return image[y - margin : y + h + margin, x - margin : x + w + margin]


def _background(rng: np.random.Generator) -> Image:
    """Something on a table that is no part, such as a scrap of paper or a stroke, in the middle of the picture."""
    image = photograph([], draw_light(rng), rng)
    lightness = image.astype(np.float32).mean(axis=2)
    found: list[tuple[float, Image]] = []
    for _ in range(_LOOKS):
        size = int(rng.integers(50, 130))
        x, y = (int(value) for value in rng.integers(0, (WIDTH - size, HEIGHT - size)))
        crop, rim = lightness[y : y + size, x : x + size], size // 8
        inner = crop[rim:-rim, rim:-rim]
        edge = np.concatenate([crop[:rim].ravel(), crop[-rim:].ravel(), crop[:, :rim].ravel(), crop[:, -rim:].ravel()])
        found.append((float(inner.std() - 2 * edge.std()), image[y : y + size, x : x + size]))
    return max(found, key=lambda pair: pair[0])[1]


def _arrange(labels: list[str], light: Light, rng: np.random.Generator) -> list[Placed]:
    """Lay parts down one after the other: most alone, the last ones against or partly onto one that lies there."""
    owner = np.full((HEIGHT, WIDTH), -1, dtype=np.int16)
    placed: list[Placed] = []
    pushes: list[float] = []
    if len(labels) > 1:
        pushes = [0.0]  # one part pushed until it touches another, and in every third scene one onto another
        pushes += [float(rng.uniform(0.06, 0.22))] if rng.random() < 0.35 else []
    for number, label in enumerate(labels):
        sprite = draw_part(label, light, rng)
        push = number - (len(labels) - len(pushes))
        spot = _against(sprite, placed, owner, pushes[push], rng) if push >= 0 else None
        spot = spot or _alone(sprite, owner, rng)
        if spot is None:
            continue
        owner[spot.area][sprite.mask] = len(placed)
        placed.append(spot)
    return placed


def _alone(sprite: Sprite, owner: NDArray[np.int16], rng: np.random.Generator) -> Placed | None:
    taken = cv2.dilate((owner >= 0).astype(np.uint8), np.ones((2 * _GAP + 1, 2 * _GAP + 1), np.uint8)) > 0
    height, width = sprite.alpha.shape
    for _ in range(200):
        x = int(rng.integers(_EDGE, WIDTH - width - _EDGE))
        y = int(rng.integers(_EDGE, HEIGHT - height - _EDGE))
        spot = Placed(sprite, x, y, 0)
        if not (taken[spot.area] & sprite.mask).any():
            return spot
    return None


def _against(
    sprite: Sprite, placed: list[Placed], owner: NDArray[np.int16], onto: float, rng: np.random.Generator
) -> Placed | None:
    """Push a part towards another until they touch, or until it covers the share ``onto`` of the other."""
    height, width = sprite.alpha.shape
    for _ in range(40):
        number = int(rng.integers(len(placed)))
        partner = placed[number]
        whole, seen = int(partner.sprite.mask.sum()), int((owner == number).sum())
        heading = rng.uniform(0, 2 * np.pi)
        middle_x = partner.x + (partner.sprite.alpha.shape[1] - width) / 2
        middle_y = partner.y + (partner.sprite.alpha.shape[0] - height) / 2
        clear: Placed | None = None
        for distance in range(130, 0, -1):
            x, y = round(middle_x + distance * np.cos(heading)), round(middle_y + distance * np.sin(heading))
            if not (_EDGE <= x < WIDTH - width - _EDGE and _EDGE <= y < HEIGHT - height - _EDGE):
                clear = None
                continue
            spot = Placed(sprite, x, y, partner.sprite.thickness * 0.7 if onto else 0)
            under = owner[spot.area][sprite.mask]
            covered = under[under >= 0]
            if (covered != number).any() or (onto and seen - covered.size < _LEAST_VISIBLE * whole):
                break
            if onto and covered.size >= onto * whole:
                return spot
            if not onto and covered.size:
                if clear is None:
                    break
                return clear
            clear = spot
    return None


def _truth(placed: list[Placed]) -> list[Part]:
    owner = np.full((HEIGHT, WIDTH), -1, dtype=np.int16)
    for number, spot in enumerate(placed):
        owner[spot.area][spot.sprite.mask] = number
    parts = []
    for number, spot in enumerate(placed):
        seen = owner == number
        x, y, w, h = cv2.boundingRect(seen.astype(np.uint8))
        occluded = int(seen.sum()) < int(spot.sprite.mask.sum())
        parts.append(Part(spot.sprite.label, (x, y, w, h), seen[y : y + h, x : x + w], occluded))
    return parts


def _jpeg(image: Image) -> bytes:
    done, content = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    if not done:
        raise RuntimeError("OpenCV could not encode a drawn picture as JPEG")
    return content.tobytes()
