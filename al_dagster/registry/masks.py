"""The mask store: one immutable full-frame 1-bit PNG for each object and version of its mask."""

import os
import uuid
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from al_dagster.core.errors import UserError
from al_dagster.core.failpoints import reach

VERSION_LENGTH = 8
COMPRESSION = 1


class MaskStore:
    """Masks on disk, as ``a1/b2/obj_<id>-<version>.png`` below a folder.

    ``a1`` and ``b2`` are the first characters of the frame's id, so that the masks of a frame lie together, and the
    version is the beginning of the mask's fingerprint.

    Args:
        root: the folder; made when the first mask is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(
        self,
        frame_id: str,
        object_id: str,
        fingerprint: str,
        mask: NDArray[np.bool_],
        *,
        offset: tuple[int, int] = (0, 0),
        frame_size: tuple[int, int] | None = None,
    ) -> str:
        """Keep a mask, unless this version of it is there already.

        Args:
            frame_id: the frame that the object is in, ``frm_…``.
            object_id: the object it belongs to.
            fingerprint: what the mask was made from; at least 8 characters.
            mask: (h, w) bool, of the whole frame or of a part of it.
            offset: x and y in pixels of the part's top-left corner in the frame.
            frame_size: width and height of the frame in pixels; default the mask's own.

        Returns:
            The path of the mask relative to the root.

        Raises:
            ValueError: the mask is not two-dimensional bool or does not lie inside the frame.
        """
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"mask must be bool of shape (h, w), got {mask.dtype} of shape {mask.shape}")
        shard = frame_id.rpartition("_")[2]
        relative = f"{shard[:2]}/{shard[2:4]}/{object_id}-{fingerprint[:VERSION_LENGTH]}.png"
        path = self.root / relative
        if path.exists():
            return relative
        encoded = _png(_full_frame(mask, offset, frame_size))
        staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            try:
                staged.write_bytes(encoded)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                staged.write_bytes(encoded)
            reach("mask half written")
            os.replace(staged, path)  # noqa: PTH105
            reach("mask written")
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        return relative

    def read(self, relative: str) -> NDArray[np.bool_]:
        """A mask as (height, width) bool.

        Args:
            relative: its path, as `write` returned it.

        Raises:
            UserError: it is not there or cannot be read, or the path leaves the store.
        """
        path = self.root / relative
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise UserError(f"{relative}: is not a path inside the mask store {self.root}")
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("1"), dtype=np.bool_)
        except OSError as error:
            raise UserError(
                f"{path}: the mask cannot be read: {error.strerror or error}; label its batch again"
            ) from None


def _png(mask: NDArray[np.bool_]) -> bytes:
    # OpenCV lets other threads work meanwhile.
    options = [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION]
    return cv2.imencode(".png", mask.view(np.uint8) * np.uint8(255), options)[1].tobytes()


def _full_frame(
    mask: NDArray[np.bool_], offset: tuple[int, int], frame_size: tuple[int, int] | None
) -> NDArray[np.bool_]:
    height, width = mask.shape
    frame_width, frame_height = frame_size or (width, height)
    x, y = offset
    if x < 0 or y < 0 or x + width > frame_width or y + height > frame_height:
        raise ValueError(
            f"a {width}×{height} mask at {offset} does not lie inside a {frame_width}×{frame_height} frame"
        )
    if mask.shape == (frame_height, frame_width):
        return mask
    frame = np.zeros((frame_height, frame_width), dtype=np.bool_)
    frame[y : y + height, x : x + width] = mask
    return frame
