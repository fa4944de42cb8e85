"""The masks of a run: files for ever, and in memory for the next stages of the run."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.geometry import xywh_to_xyxy
from al_dagster.registry.masks import MaskStore
from al_dagster.vision.protocols import Mask

BOX_COLUMNS = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
CACHE_BYTES = 256 * 1024 * 1024


def corners(rows: Iterable[Mapping[str, Any]]) -> NDArray[np.float64]:
    """The boxes of rows that have the box's columns: (n, 4), x1, y1, x2, y2 in pixels."""
    return xywh_to_xyxy(np.array([[row[column] for column in BOX_COLUMNS] for row in rows]))


class RunMasks:
    """Writes masks to the mask store and keeps the newest in memory, as the parts that their boxes cover.

    Args:
        store: the mask store.
        cache_bytes: memory for masks; the oldest are dropped, and read from their files when asked for.
    """

    def __init__(self, store: MaskStore, cache_bytes: int = CACHE_BYTES) -> None:
        self._store, self._capacity = store, cache_bytes
        self._kept: OrderedDict[str, Mask] = OrderedDict()
        self._bytes = 0
        self._keeping = Lock()

    @property
    def root(self) -> Path:
        """The folder of the mask store, which the paths of masks are relative to."""
        return self._store.root

    def write(self, frame: Mapping[str, Any], object_id: str, fingerprint: str, mask: Mask) -> str:
        """Keep a mask; returns its path relative to the root. Threads may call it at once.

        Args:
            frame: the frame's row, with its id, width and height.
            object_id: the object that the mask belongs to.
            fingerprint: what the mask was made from.
            mask: the object's pixels.
        """
        path = self._store.write(
            frame["frame_id"],
            object_id,
            fingerprint,
            mask.pixels,
            offset=(mask.x, mask.y),
            frame_size=(frame["width"], frame["height"]),
        )
        with self._keeping:
            if path not in self._kept:
                self._kept[path] = replace(mask, score=1.0)
                self._bytes += mask.pixels.nbytes
            while self._bytes > self._capacity:
                self._bytes -= self._kept.popitem(last=False)[1].pixels.nbytes
        return path

    def read(self, box: Mapping[str, Any], path: str) -> Mask:
        """The mask of an object, with score 1.

        Args:
            box: a row with the box's columns.
            path: the mask's, relative to the root.

        Raises:
            UserError: the file is missing or damaged.
        """
        if path in self._kept:
            return self._kept[path]
        x, y, w, h = (box[column] for column in BOX_COLUMNS)
        left, top = int(np.floor(x)), int(np.floor(y))
        return Mask(self._store.read(path)[top : int(np.ceil(y + h)), left : int(np.ceil(x + w))], left, top, 1.0)
