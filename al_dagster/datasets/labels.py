"""The labels of a dataset as exports write them: in columns, cut to their images, an entry an object."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from al_dagster.datasets.frozen import FrozenDataset

_MIN_POINTS = 3


@dataclass(frozen=True)
class Labels:
    """Labels in the order of the images and of the object ids.

    Args:
        starts: (images + 1,): the labels of the i-th image are those from ``starts[i]`` to ``starts[i + 1]``.
        sizes: (n, 2), width and height in pixels of the image of each label.
        boxes: (n, 4), x1, y1, x2, y2 in pixels inside the image.
        class_ids: (n,), from 0 in the order of the dataset's classes.
        object_ids: of the registry.
        rles: the mask of each in COCO's compressed run lengths; None without one.
        areas: (n,), of the mask in px², or of the box without one.
        polygons: lists of rings of x, y, x, y, … in pixels.
    """

    starts: NDArray[np.int64]
    sizes: NDArray[np.float64]
    boxes: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    object_ids: list[str]
    rles: list[str | None]
    areas: NDArray[np.float64]
    polygons: pa.ListArray

    @property
    def xywh(self) -> NDArray[np.float64]:
        """(n, 4), top-left corner and size of the boxes in pixels."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)

    def rings(self) -> list[list[NDArray[np.float64]]]:
        """The outlines of each label's mask, (k, 2) each, x, y in pixels inside the image; none without a mask."""
        outer, inner = self.polygons.offsets.to_numpy(), self.polygons.values.offsets.to_numpy()
        points = self.polygons.values.values.to_numpy().reshape(-1, 2)
        bounds = inner[outer] // 2
        points = points.clip(0, np.repeat(self.sizes, np.diff(bounds), axis=0)) if len(self.boxes) else points
        all_rings = np.split(points, inner[1:-1] // 2 - bounds[0]) if len(inner) > 1 else []
        return [
            [ring for ring in all_rings[start:end] if len(ring) >= _MIN_POINTS]
            for start, end in zip(outer[:-1].tolist(), outer[1:].tolist(), strict=True)
        ]

    def outlines(self) -> list[NDArray[np.float64]]:
        """One outline for each label, (k, 2), x, y in pixels inside the image; of its box where it has no mask."""
        corners = self.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        return [
            rings[0] if len(rings) == 1 else one_outline(rings) if rings else box
            for rings, box in zip(self.rings(), corners, strict=True)
        ]


def labels_of(dataset: FrozenDataset) -> Labels:
    """The labels of a dataset."""
    return _labels(dataset, dataset.object_rows)


def ignored_of(dataset: FrozenDataset) -> Labels:
    """The regions of a dataset that are to teach nothing."""
    return _labels(dataset, dataset.ignored_rows)


def _labels(dataset: FrozenDataset, rows: NDArray[np.int64]) -> Labels:
    table, boxes = dataset.table.take(rows), dataset.boxes[rows]
    classes = pa.array(dataset.classes, pa.string())
    polygons = table["polygon"].combine_chunks()
    has_mask = table["rle"].is_valid().to_numpy() | (polygons.value_lengths().fill_null(0).to_numpy() > 0)
    areas = table["area"].fill_null(0).to_numpy()
    of_boxes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return Labels(
        starts=dataset.starts(rows),
        sizes=dataset.sizes[rows],
        boxes=boxes,
        class_ids=pc.index_in(table["category"].combine_chunks(), classes)
        .to_numpy(zero_copy_only=False)
        .astype(np.int64),
        object_ids=table["object_id"].to_pylist(),
        rles=table["rle"].to_pylist(),
        areas=np.where(has_mask & (areas > 0), areas, of_boxes),
        polygons=polygons,
    )


def one_outline(outlines: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Several outlines as one, joined by bridges without width at their nearest corners.

    By the even-odd rule it covers what the outlines cover together: a hole stays a hole.

    Args:
        outlines: at least one, (k, 2) each.

    Returns:
        (m, 2), with no corner that the outlines do not have.
    """
    joined = outlines[0]
    for ring in outlines[1:]:
        gaps = ((joined[:, None, :] - ring[None, :, :]) ** 2).sum(axis=2)
        here, there = np.unravel_index(int(gaps.argmin()), gaps.shape)
        around = np.concatenate([ring[there:], ring[: there + 1]])
        joined = np.concatenate([joined[: here + 1], around, joined[here:]])
    return joined
