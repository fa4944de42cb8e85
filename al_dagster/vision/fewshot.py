"""Few-shot classification: an object takes the class whose example pictures it is most like."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import structlog
from numpy.typing import NDArray

from al_dagster.core.errors import UserError
from al_dagster.core.input_files import SYSTEM_FOLDERS
from al_dagster.core.project import UNKNOWN
from al_dagster.vision import group_weights, overlaps
from al_dagster.vision.crops import NEUTRAL, crop_object, silhouette
from al_dagster.vision.group_weights import GroupWeights, learn_weights
from al_dagster.vision.parallel import be_repeatable
from al_dagster.vision.protocols import Classification, Embedder, Image, Segmenter
from al_dagster.vision.revisions import code_revision

log = structlog.get_logger(__name__)

BACKGROUND = "_background"
"""Folder of the support set with pictures of what is no object of any class."""

LEAST_SCORE = 0.2
"""Score of its mask below which a picture in ``_background`` shows nothing but the surface."""

TURN_STEP = 15
"""Degrees between the turns in which each support picture is taken."""

TURNS = 360 // TURN_STEP
"""Vectors of each example, that of the picture as it is first."""

MARGIN = 0.06
"""Share of a support picture's side, at each edge, that is taken to be background."""

REVISION = code_revision(
    "3",
    margin=MARGIN,
    least_score=LEAST_SCORE,
    turn_step=TURN_STEP,
    weights=group_weights.PARAMETERS,
    overlaps=overlaps.PARAMETERS,
)
"""Changes with whatever classifications depend on besides vectors, masks, boxes and thresholds."""


@dataclass(frozen=True)
class SupportSet:
    """Vectors of the example pictures of each class.

    Args:
        vectors: for each class, (k, dimension), float32, L2 norm 1.
        background: (k, dimension): vectors of what is no object of any class; or None.
        weights: how vectors are weighed before they are compared; None where they are compared as they are.
        compared: the vectors of each class, and of ``_background`` if there is any, weighed.
        revision: 16 hex characters that change when a class or a vector does.

    Raises:
        ValueError: there is no class, a class has no vector, or dimensions differ.
    """

    vectors: Mapping[str, NDArray[np.float32]]
    background: NDArray[np.float32] | None = None
    weights: GroupWeights | None = None
    compared: Mapping[str, NDArray[np.float32]] = field(init=False, repr=False)
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
        object.__setattr__(self, "compared", {name: self.weighed(array) for name, array in arrays.items()})
        digest = hashlib.sha256()
        for name in sorted(arrays):
            digest.update(f"{name}\x1f{arrays[name].shape}\x1f".encode())
            digest.update(np.ascontiguousarray(arrays[name], dtype=np.float32).tobytes())
        object.__setattr__(self, "revision", digest.hexdigest()[:16])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(self.vectors)

    def weighed(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors as they are compared: (n, dimension), float32, L2 norm 1."""
        return vectors if self.weights is None else self.weights.weigh(vectors)


def classify(
    vectors: NDArray[np.float32], support: SupportSet, threshold: float, top_k: int = 3, min_margin: float = 0.0
) -> list[Classification]:
    """Name objects by their vectors.

    A class's score is the mean cosine similarity of its ``top_k`` most similar examples, of all where it has fewer; the
    features are weighed as the support set says. The best class is taken when its score is at least the threshold, its
    lead over the second class is at least the margin, and no background example is as near.

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
    vectors, names = support.weighed(vectors), support.classes
    scores = np.stack([_class_scores(vectors, support.compared[name], top_k) for name in names], axis=1)
    background = (
        np.full(len(vectors), -np.inf)
        if support.background is None
        else _class_scores(vectors, support.compared[BACKGROUND], top_k)
    )
    results = []
    for row, nothing in zip(scores, background, strict=True):
        order = np.argsort(-row, kind="stable")
        score = float(row[order[0]])
        margin = score - float(row[order[1]]) if len(row) > 1 else score
        accepted = score >= threshold and margin >= min_margin and score > nothing
        results.append(Classification(names[order[0]] if accepted else UNKNOWN, score, margin))
    return results


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
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in SYSTEM_FOLDERS
    )
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


def example_files(folder: Path) -> list[Path]:
    """The example pictures of a class, sorted by name; what lies among them and is no regular file is left out.

    Hidden files are left out without a word, and folders, dangling links, pipes and devices with a warning.

    Args:
        folder: of the class; none if it does not exist.
    """
    if not folder.is_dir():
        return []
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file()]
    if left_out := [entry.name for entry in entries if entry not in files and entry.name not in SYSTEM_FOLDERS]:
        log.warning("left out of the examples: not a file", folder=str(folder), names=left_out[:5], count=len(left_out))
    return files


def picture_crops(
    folder: Path, classes: Sequence[str], read_image: Callable[[Path], Image], segmenter: Segmenter
) -> dict[str, list[Image]]:
    """The objects of a support folder: a folder a class, each with pictures of one object.

    Each picture goes the way of a detected object: its box is the picture less a small margin, and the segmenter cuts
    the object out, so that examples and objects are compared like with like. Hidden files are skipped. The folder
    ``_background`` may hold pictures of what is no object of any class; those that show nothing at all are skipped.

    Args:
        folder: the support folder.
        classes: the project's classes.
        read_image: opens a picture as RGB and raises a UserError where it cannot.
        segmenter: cuts the object out of each picture.

    Returns:
        For each class that has a folder, and for ``_background`` if it shows something, (side, side, 3) uint8 crops.

    Raises:
        UserError: the folder is missing, a class folder is no class of the project, or has no readable picture.
    """
    be_repeatable()
    crops = {
        name: _crops(folder / name, read_image, segmenter)
        for name in (*support_classes(folder, classes), BACKGROUND)
        if name != BACKGROUND or (folder / BACKGROUND).is_dir()
    }
    return {name: found for name, found in crops.items() if found}


def build_support(crops: Mapping[str, Sequence[Image]], embedder: Embedder) -> SupportSet:
    """Embed examples in 24 turns each, for an embedder may tell how a thing is turned, and learn to tell them apart.

    How much each group of the embedding's features counts is learnt from the examples as they are, unturned.

    Args:
        crops: for each class, and perhaps for ``_background``, (side, side, 3) uint8 crops.
        embedder: makes the vectors.
    """
    be_repeatable()
    vectors = {
        name: np.concatenate(
            [embedder.embed([turned(crop, turn * TURN_STEP) for turn in range(TURNS)]) for crop in found]
        )
        for name, found in crops.items()
    }
    background = vectors.pop(BACKGROUND, None)
    unturned = {name: array[::TURNS] for name, array in vectors.items()}
    weights = learn_weights(unturned, None if background is None else background[::TURNS], embedder.groups)
    return SupportSet(vectors, background, weights)


def _crops(folder: Path, read_image: Callable[[Path], Image], segmenter: Segmenter) -> list[Image]:
    """The crop of the object of each picture in a folder."""
    crops: list[Image] = []
    readable, refused = 0, []
    for path in example_files(folder):
        try:
            image = read_image(path)
        except UserError as error:
            refused.append(f"{path.name}: {error}")
            continue
        readable += 1
        height, width = image.shape[:2]
        edge = max(1.0, MARGIN * min(height, width)) if min(height, width) > 8 else 0.0
        box = np.array([[edge, edge, width - edge, height - edge]])
        mask = segmenter.segment([image], [box])[0][0]
        if folder.name == BACKGROUND and mask.score < LEAST_SCORE:
            continue  # an empty picture has no shape to compare with
        crops.append(crop_object(image, box[0], mask))
    if not readable:
        why = f" ({refused[0]})" if refused else ""
        raise UserError(f"{folder}: has no readable picture{why}; put example pictures of the class into it")
    if refused:
        log.warning("left out of the examples", folder=str(folder), first=refused[0], count=len(refused))
    return crops


def turned(crop: Image, degrees: float) -> Image:
    """A crop turned about its centre, grey where nothing of it lies: (side, side, 3), uint8."""
    if degrees == 0:
        return crop
    side = crop.shape[0]
    centre = ((side - 1) / 2, (side - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, degrees, 1.0)
    picture = np.asarray(cv2.warpAffine(crop, matrix, (side, side), borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8)
    inside = cv2.warpAffine(silhouette(crop).astype(np.float32), matrix, (side, side)) > 0.5
    if inside.any():
        picture[~inside] = NEUTRAL
    return picture
