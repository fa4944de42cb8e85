"""The mask store: one immutable full-frame 1-bit PNG for each object and version of its mask."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import png
from numpy.typing import NDArray
from PIL import Image

from al_dagster.core.errors import UserError
from al_dagster.core.files import sync, write_whole
from al_dagster.core.rle import decode

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
        self._unsynced: set[Path] = set()

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
        """Keep a mask, unless this version of it is there already and undamaged.

        Its bytes have reached the disk then, and its name when `settle` was called.

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
        height, width = mask.shape
        if not self.is_intact(relative, frame_size or (width, height)):
            self._write(relative, _full_frame(mask, offset, frame_size))
        return relative

    def restore(self, relative: str, rle: str, frame_size: tuple[int, int]) -> bool:
        """Write a mask anew that is missing or damaged, from its run lengths over the whole frame.

        Args:
            relative: its path, as `write` returned it.
            rle: COCO's compressed run lengths.
            frame_size: width and height of the frame in pixels.

        Returns:
            Whether it was written.
        """
        if self.is_intact(relative, frame_size):
            return False
        self._write(relative, decode(rle, *frame_size))
        return True

    def settle(self) -> None:
        """Wait until the names of all masks that were written have reached the disk."""
        while self._unsynced:
            sync(self._unsynced.pop())

    def is_intact(self, relative: str, frame_size: tuple[int, int] | None = None) -> bool:
        """Whether the file of a mask is there, as it was written, and of this width and height in pixels."""
        try:
            size = _size_of((self.root / relative).read_bytes())
            return frame_size is None or size == frame_size
        except (OSError, ValueError):
            return False

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
            content = path.read_bytes()
            _size_of(content)
            with Image.open(io.BytesIO(content)) as image:
                return np.asarray(image.convert("1"), dtype=np.bool_)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise UserError(
                f"{path}: the mask cannot be read: {reason}; `al ingest --again` of its project makes it anew"
            ) from None

    def _write(self, relative: str, mask: NDArray[np.bool_]) -> None:
        path = self.root / relative
        write_whole(path, _png(mask), name="mask", sync_folder=False)
        self._unsynced.add(path.parent)


def _size_of(content: bytes) -> tuple[int, int]:
    """Width and height of a PNG in pixels, once every chunk of it has the checksum that it was written with.

    Raises:
        ValueError: it is no PNG, or not as it was written.
    """
    if not content:
        raise ValueError("it is empty")
    reader = png.Reader(bytes=content)
    chunks: list[tuple[bytes, bytes]] = []
    try:
        while not chunks or chunks[-1][0] != b"IEND":
            chunks.append(reader.chunk())
    except (png.Error, ValueError) as error:
        raise ValueError(f"it is damaged ({error})") from None
    if chunks[0][0] != b"IHDR" or reader.file.read(1):
        raise ValueError("it is damaged (not the chunks of a mask)")
    width, height = struct.unpack(">II", chunks[0][1][:8])
    return width, height


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
