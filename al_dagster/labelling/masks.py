"""The masks of a run: files for ever, and in memory for the next stages of the run."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import structlog
from numpy.typing import NDArray

from al_dagster.core.geometry import xywh_to_xyxy
from al_dagster.registry.database import Registry
from al_dagster.registry.masks import MaskStore
from al_dagster.registry.objects import touched_masks
from al_dagster.vision.protocols import Mask

BOX_COLUMNS = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
CACHE_BYTES = 256 * 1024 * 1024

log = structlog.get_logger(__name__)


def corners(rows: Iterable[Mapping[str, Any]]) -> NDArray[np.float64]:
    """The boxes of rows that have the box's columns: (n, 4), x1, y1, x2, y2 in pixels."""
    return xywh_to_xyxy(np.array([[row[column] for column in BOX_COLUMNS] for row in rows]))


def restore_masks(registry: Registry, masks: "RunMasks", frames: pa.Table) -> None:
    """Write the masks anew that are missing or damaged, of objects that people touched.

    Labelling again leaves these objects alone, so that no stage makes their masks; the registry has the run lengths.

    Args:
        registry: has the objects.
        masks: where their masks are kept.
        frames: rows of ``core.schemas.FRAMES``; only objects in these.
    """
    frame_by_id = {row["frame_id"]: row for row in frames.select(["frame_id", "width", "height"]).to_pylist()}
    for frame_id, path, rle in touched_masks(registry, list(frame_by_id)):
        frame = frame_by_id[frame_id]
        masks.restore((frame["width"], frame["height"]), path, rle)
    masks.settle()


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

    def is_intact(self, frame: Mapping[str, Any], path: str) -> bool:
        """Whether the file of a mask of a frame is there, as it was written."""
        return self._store.is_intact(path, (frame["width"], frame["height"]))

    def settle(self) -> None:
        """Wait until all masks that were written have reached the disk."""
        self._store.settle()

    def restore(self, image_size: tuple[int, int], path: str, rle: str | None) -> None:
        """Write the file of a mask anew if it is missing or damaged and the mask is known otherwise.

        Args:
            image_size: width and height of the frame in pixels.
            path: the mask's, relative to the root.
            rle: the mask in COCO's compressed run lengths, or None.
        """
        if rle is not None and self._store.restore(path, rle, image_size):
            log.warning("damaged mask is written anew", path=path)

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
