"""Few-shot classification: an object takes the class whose example pictures it is most like."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.core.geometry import iou_matrix
from al_dagster.vision.crops import crop_object
from al_dagster.vision.protocols import UNKNOWN, Embedder, Image, Mask, Segmenter

BACKGROUND = "_background"
"""Folder of the support set with pictures of what is no object of any class."""

MARGIN = 0.06
"""Share of a support picture's side, at each edge, that is taken to be background."""


@dataclass(frozen=True)
class Classification:
    """What an object was taken for.

    Args:
        label: a class of the support set, or ``Unknown``.
        score: mean cosine similarity to the nearest examples of the best class, -1 to 1.
        margin: lead of the best class over the second, 0–2; equal to the score where there is one class only.
    """

    label: str
    score: float
    margin: float


@dataclass(frozen=True)
class SupportSet:
    """Vectors of the example pictures of each class.

    Args:
        vectors: for each class, (k, dimension), float32, L2 norm 1.
        background: (k, dimension): vectors of what is no object of any class; may be empty.
        revision: 16 hex characters that change when a class or a vector does.

    Raises:
        ValueError: there is no class, a class has no vector, or dimensions differ.
    """

    vectors: Mapping[str, NDArray[np.float32]]
    background: NDArray[np.float32] | None = None
    revision: str = field(init=False)

    def __post_init__(self) -> None:
        arrays = {**self.vectors, **({} if self.background is None else {BACKGROUND: self.background})}
        if not self.vectors:
            raise ValueError("a support set needs at least one class")
        wrong = [name for name, array in arrays.items() if array.ndim != 2 or len(array) == 0]
        if wrong:
            raise ValueError(f"vectors of {', '.join(wrong)} must have shape (k, dimension), k at least 1")
        if len({array.shape[1] for array in arrays.values()}) > 1:
            raise ValueError(f"dimensions differ: { {name: array.shape[1] for name, array in arrays.items()} }")
        digest = hashlib.sha256()
        for name in sorted(arrays):
            digest.update(f"{name}\x1f{arrays[name].shape}\x1f".encode())
            digest.update(np.ascontiguousarray(arrays[name], dtype=np.float32).tobytes())
        object.__setattr__(self, "revision", digest.hexdigest()[:16])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(self.vectors)


def classify(
    vectors: NDArray[np.float32], support: SupportSet, threshold: float, top_k: int = 3, min_margin: float = 0.0
) -> list[Classification]:
    """Name objects by their vectors.

    A class's score is the mean cosine similarity of its ``top_k`` most similar examples, of all where it has fewer.
    The best class is taken when its score is at least the threshold, its lead over the second class is at least the
    margin, and no background example is as near.

    Args:
        vectors: (n, dimension), L2 norm 1.
        support: the examples.
        threshold: least score.
        top_k: examples that count.
        min_margin: least lead.

    Raises:
        ValueError: the dimension is not that of the support set.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    dimension = next(iter(support.vectors.values())).shape[1]
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise ValueError(f"vectors must have shape (n, {dimension}), got {vectors.shape}")
    names = support.classes
    scores = np.stack([_class_scores(vectors, support.vectors[name], top_k) for name in names], axis=1)
    background = (
        np.full(len(vectors), -np.inf)
        if support.background is None
        else _class_scores(vectors, support.background, top_k)
    )
    results = []
    for row, nothing in zip(scores, background, strict=True):
        order = np.argsort(-row, kind="stable")
        score = float(row[order[0]])
        margin = score - float(row[order[1]]) if len(row) > 1 else score
        accepted = score >= threshold and margin >= min_margin and score > nothing
        results.append(Classification(names[order[0]] if accepted else UNKNOWN, score, margin))
    return results


def resolve_overlaps(
    boxes: NDArray[np.floating], masks: Sequence[Mask], classifications: Sequence[Classification], overlap: float = 0.5
) -> list[Classification]:
    """Choose between proposals of one frame that claim the same pixels; those not chosen become "Unknown".

    How well a proposal fits grows with its score, its margin, and the likeness of its box to the box of its mask: a
    mask that fills only a part of its box was cut out of too wide a reading. Proposals are taken from the best fitting
    down; one whose mask shares more than ``overlap`` of the smaller of the two masks with one already taken becomes
    "Unknown", its score and margin kept.

    Args:
        boxes: (n, 4), x1, y1, x2, y2 in pixels.
        masks: n masks.
        classifications: n results of ``classify``.
        overlap: share of the smaller mask that two objects may have in common, 0–1.
    """
    extents = np.array([_extent(mask) for mask in masks], dtype=np.float64).reshape(-1, 4)
    tightness = np.diag(iou_matrix(boxes, extents)) if len(masks) else np.empty(0)
    fit = [
        float(tight) ** 0.5 * (result.score + result.margin)
        for tight, result in zip(tightness, classifications, strict=True)
    ]
    taken: list[int] = []
    results = list(classifications)
    for index in sorted(range(len(results)), key=lambda index: (-fit[index], index)):
        if results[index].label == UNKNOWN:
            continue
        if any(_shared(masks[index], masks[other]) > overlap for other in taken):
            results[index] = replace(results[index], label=UNKNOWN)
        else:
            taken.append(index)
    return results


def _extent(mask: Mask) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.pixels.any(axis=0)), np.flatnonzero(mask.pixels.any(axis=1))
    if len(columns) == 0:
        return mask.x, mask.y, mask.x, mask.y
    return mask.x + int(columns[0]), mask.y + int(rows[0]), mask.x + int(columns[-1]) + 1, mask.y + int(rows[-1]) + 1


def _shared(first: Mask, second: Mask) -> float:
    """Pixels in both masks, as a share of the smaller."""
    left, top = max(first.x, second.x), max(first.y, second.y)
    right = min(first.x + first.pixels.shape[1], second.x + second.pixels.shape[1])
    bottom = min(first.y + first.pixels.shape[0], second.y + second.pixels.shape[0])
    smaller = min(first.area, second.area)
    if left >= right or top >= bottom or smaller == 0:
        return 0.0
    one = first.pixels[top - first.y : bottom - first.y, left - first.x : right - first.x]
    other = second.pixels[top - second.y : bottom - second.y, left - second.x : right - second.x]
    return float((one & other).sum()) / smaller


def _class_scores(vectors: NDArray[np.float32], examples: NDArray[np.float32], top_k: int) -> NDArray[np.float64]:
    similarities = (vectors @ examples.T).astype(np.float64)
    return np.asarray(np.sort(similarities, axis=1)[:, -top_k:].mean(axis=1))


def support_classes(folder: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """The project's classes that have a folder of example pictures, in the order of ``classes``.

    Raises:
        UserError: the folder is missing, has no class folder, or has one that is no class of the project.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder of example pictures; make it, with a folder for each class")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    unknown = [name for name in names if name not in classes and name != BACKGROUND]
    if unknown:
        raise UserError(
            f"{folder}: {', '.join(map(repr, unknown))} is not among the project's classes "
            f"({', '.join(classes)}); rename the folder or add the class"
        )
    found = tuple(name for name in classes if name in names)
    if not found:
        raise UserError(
            f"{folder}: holds no folder named like a class ({', '.join(classes)}); put example pictures into one"
        )
    return found


def load_support(
    folder: Path,
    classes: Sequence[str],
    embedder: Embedder,
    read_image: Callable[[Path], Image],
    *,
    segmenter: Segmenter,
) -> SupportSet:
    """Read a support set: a folder a class, each with pictures of one object.

    Each picture goes the way of a detected object: its box is the picture less a small margin, the segmenter cuts the
    object out, and the crop is embedded, so that examples and objects are compared like with like. Hidden files are
    skipped. The folder ``_background`` may hold pictures of what is no object of any class.

    Args:
        folder: the support folder.
        classes: the project's classes.
        embedder: makes the vectors.
        read_image: opens a picture as RGB and raises a UserError where it cannot.
        segmenter: cuts the object out of each picture.

    Raises:
        UserError: the folder is missing, a class folder is no class of the project, or has no readable picture.
    """
    found = support_classes(folder, classes)
    names = [*found, BACKGROUND] if (folder / BACKGROUND).is_dir() else list(found)
    vectors = {name: _folder_vectors(folder / name, embedder, read_image, segmenter) for name in names}
    return SupportSet({name: vectors[name] for name in found}, vectors.get(BACKGROUND))


def _folder_vectors(
    folder: Path, embedder: Embedder, read_image: Callable[[Path], Image], segmenter: Segmenter
) -> NDArray[np.float32]:
    crops, refused = [], []
    for path in sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")):
        try:
            image = read_image(path)
        except UserError as error:
            refused.append(f"{path.name}: {error}")
            continue
        height, width = image.shape[:2]
        edge = max(1.0, MARGIN * min(height, width)) if min(height, width) > 8 else 0.0
        box = np.array([[edge, edge, width - edge, height - edge]])
        mask = segmenter.segment([image], [box])[0][0]
        crops.append(crop_object(image, box[0], mask))
    if not crops:
        why = f" ({refused[0]})" if refused else ""
        raise UserError(f"{folder}: has no readable picture{why}; put example pictures of the class into it")
    return embedder.embed(crops)
