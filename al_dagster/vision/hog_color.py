"""An embedding of shape and colour that needs no trained weights."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from al_dagster.vision import outlines
from al_dagster.vision.crops import NEUTRAL, silhouette
from al_dagster.vision.parallel import IMAGES_PER_CALL, be_repeatable
from al_dagster.vision.protocols import Image
from al_dagster.vision.revisions import code_revision

SIDE = 64
"""Side in pixels of the aligned picture that the features are measured on."""

MARGIN = 2
LEAST_ELONGATION = 1.2
"""Length over width from which an object has a direction."""
RINGS = 7
WEIGHTS = {"hog": 4.9, "corners": 3.5, "proportions": 2.4, "rings": 4.05, "colour": 0.4}
"""Share of each group of features in the likeness of two objects, as the square root."""


class HogColorEmbedder:
    """Vectors of HOG, outline and colour, the same however a long object is turned in the picture plane.

    A crop made with a mask is first turned so that the object's long axis lies level and its heavier end is on the
    left, and scaled to fill 64×64 pixels. A round object, which has no long axis, is scaled only. The vector joins,
    each group scaled to its weight: HOG of the turned object; codes of the corners of its outline, which no turn
    changes; codes of its proportions; brightness, contrast and coverage in rings around its centre; and a histogram of
    its Lab colours.

    The version of its vectors is named after its revision, ``hog_color_<revision>``, since the same picture need not
    give the same vector with another release of OpenCV.

    Args:
        opencv: the OpenCV release that computes the features.
    """

    model_id = "hog-color"
    images_per_call = IMAGES_PER_CALL

    def __init__(self, opencv: str = cv2.__version__) -> None:
        self._hog = cv2.HOGDescriptor((SIDE, SIDE), (16, 16), (16, 16), (8, 8), 9)
        self.groups = tuple(map(len, self._features(np.zeros((8, 8, 3), dtype=np.uint8))))
        self.dimension = sum(self.groups)
        self.revision = code_revision(
            "1",
            opencv,
            side=SIDE,
            margin=MARGIN,
            elongation=LEAST_ELONGATION,
            rings=RINGS,
            weights=WEIGHTS,
            outlines=outlines.PARAMETERS,
            dimension=self.dimension,
        )
        self.version_id = f"hog_color_{self.revision}"

    def load(self) -> None:
        """Nothing to load: the features have no weights."""

    def unload(self) -> None:
        """Nothing to free."""

    def embed(self, crops: Sequence[Image]) -> NDArray[np.float32]:
        """Vectors of crops.

        Args:
            crops: as ``crop_object`` makes them: (side, side, 3), uint8, each.

        Returns:
            (n, dimension), float32, L2 norm 1.
        """
        be_repeatable()
        vectors = np.zeros((len(crops), self.dimension), dtype=np.float64)
        for index, crop in enumerate(crops):
            vectors[index] = np.concatenate(self._features(crop))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def _features(self, crop: Image) -> list[NDArray[np.floating]]:
        """The groups of features, the L2 norm of each its weight."""
        picture, inside = aligned(crop)
        filled = outlines.body(inside)
        distances, centre = outlines.reach(filled)
        groups = {
            "hog": np.asarray(self._hog.compute(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))).ravel(),
            "corners": outlines.corner_codes(distances),
            "proportions": outlines.proportion_codes(filled),
            "rings": _ring_codes(picture, inside, centre, float(distances.mean())),
            "colour": _colours(picture, inside),
        }
        return [WEIGHTS[name] * group / max(float(np.linalg.norm(group)), 1e-9) for name, group in groups.items()]


def aligned(crop: Image) -> tuple[Image, NDArray[np.bool_]]:
    """The object turned level, heavier end to the left, and scaled to fill the picture, with its silhouette.

    An object not a fifth longer than wide keeps its turn, for its axes would be those of its noise. A crop made
    without a mask is only scaled.
    """
    inside = silhouette(crop)
    if inside.all():
        whole = np.asarray(cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        return whole, np.ones((SIDE, SIDE), dtype=bool)
    points = np.argwhere(inside)[:, ::-1].astype(np.float64)
    centre = points.mean(axis=0)
    offsets = points - centre
    spreads, directions = np.linalg.eigh(offsets.T @ offsets)
    is_long = spreads[1] > LEAST_ELONGATION**2 * spreads[0]
    axes = directions[:, ::-1].T if is_long else np.eye(2)
    skew = ((offsets @ axes.T) ** 3).mean(axis=0)
    turn = axes * np.where(skew < 0, -1.0, 1.0)[:, None] if is_long else axes
    extent = offsets @ turn.T
    low, high = extent.min(axis=0), extent.max(axis=0)
    scale = (SIDE - 2 * MARGIN) / (float((high - low).max()) + 1.0)
    shift = (SIDE - 1) / 2 - scale * (turn @ centre + (low + high) / 2)
    matrix = np.concatenate([turn * scale, shift[:, None]], axis=1)
    # Without smoothing first, a large object would be sampled at single pixels.
    source = cv2.GaussianBlur(crop, (0, 0), 0.4 / scale) if scale < 0.7 else crop
    picture = cv2.warpAffine(
        source, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(NEUTRAL,) * 3
    )
    cover = cv2.warpAffine(inside.astype(np.float32), matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR) > 0.5
    if not cover.any():
        cover[SIDE // 2, SIDE // 2] = True
    picture[~cover] = NEUTRAL
    return np.asarray(picture, dtype=np.uint8), np.asarray(cover)


def _ring_codes(
    picture: Image, inside: NDArray[np.bool_], centre: tuple[float, float], radius: float
) -> NDArray[np.float64]:
    """Brightness and contrast against the whole object, and coverage, in rings around the centre, as codes."""
    lightness = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[..., 0].astype(np.float64)
    mean = float(lightness[inside].mean()) + 1.0
    rows, columns = np.indices(inside.shape)
    rings = (np.hypot(columns - centre[0], rows - centre[1]) / max(radius, 1.0) * (RINGS - 1)).astype(int)
    brightness, contrast, coverage = np.zeros(RINGS), np.zeros(RINGS), np.zeros(RINGS)
    for ring in range(RINGS):
        where = rings == ring
        values = lightness[where & inside]
        coverage[ring] = inside[where].mean() if where.any() else 0.0
        if len(values) > 3:
            brightness[ring], contrast[ring] = values.mean() / mean - 1, values.std() / mean
    groups = [
        4.0 * _unit(outlines.codes(brightness, -0.5, 0.5, 6, 0.2)),
        2.0 * _unit(outlines.codes(contrast, 0, 0.4, 6, 0.08)),
        0.5 * _unit(outlines.codes(coverage, 0, 1, 4, 0.33)),
    ]
    return np.concatenate(groups)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def _colours(picture: Image, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Square roots of the shares of Lab colours inside the silhouette."""
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    mask = inside.astype(np.uint8)
    tint = cv2.calcHist([lab], [1, 2], mask, [12, 12], [64, 192, 64, 192]).ravel()
    light = cv2.calcHist([lab], [0], mask, [8], [0, 256]).ravel()
    return np.sqrt(np.concatenate([tint, light]) / float(mask.sum())).astype(np.float64)
