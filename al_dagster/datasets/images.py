"""Image files of an export: the original's bytes where they serve as they are, else the picture written anew."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from al_dagster.core import rle
from al_dagster.core.errors import UnreadableFileError
from al_dagster.core.hashing import file_sha256
from al_dagster.datasets.frozen import DatasetImage, DatasetObject
from al_dagster.media.budget import PixelBudget
from al_dagster.media.pixels import Image
from al_dagster.media.reading import ImageFile, open_file, read_file

Placing = Literal["cloned", "copied", "linked", "written"]

_JPEG_END = b"\xff\xd9"
_FICLONE = 0x40049409
"""Linux' ioctl that makes a file share another's blocks until either is written to."""
_IGNORED_GREY = 114
"""What YOLO pads images with, so that models know it as nothing."""
_IGNORED_MARGIN = 2
"""In pixels around the mask of an ignored object, whose edge still shows it."""


@dataclass(frozen=True)
class PlacedImage:
    """An image file of an export.

    Args:
        path: the file.
        sha256: of its bytes.
        how: cloned or copied from the original, linked to it, or written anew.
    """

    path: Path
    sha256: str
    how: Placing


def image_folder(split: str) -> Path:
    """Where the images of a split stand in an export of any format."""
    return Path("images", split)


def place_image(
    image: DatasetImage, originals: Sequence[Path], folder: Path, *, links: bool, max_pixels: int, budget: PixelBudget
) -> PlacedImage:
    """Put an image into a folder of an export, under its name.

    A plain file is cloned where the file system can, else copied, so that nobody who edits it changes the original; or
    linked, where that is asked for and possible. Any other becomes an upright 8-bit RGB PNG. So does a JPEG that does
    not end as a JPEG should, since training rewrites such files, and an image with ignored objects, which are painted
    over.

    Args:
        image: what to place.
        originals: where the original may lie; the first that holds its bytes serves.
        folder: an existing folder.
        links: whether it may be a link to the original.
        max_pixels: an original of more pixels than this is not decoded.
        budget: what an image that is written anew takes its pixels from.

    Raises:
        UnreadableFileError: no original is left that can be read and has not changed since it was registered; the
            sentence names the first.
    """
    problems: list[UnreadableFileError] = []
    for original in originals:
        try:
            return _place(image, original, folder, links, max_pixels, budget)
        except UnreadableFileError as error:
            problems.append(error)
    raise UnreadableFileError(f"{originals[0]} {problems[0]}")


def link_or_copy(path: Path, target: Path) -> bool:
    """Make a file appear at a second path, as a hard link where the file system allows it; whether it is one."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copyfile(path, target)
        return False
    return True


def _place(
    image: DatasetImage, original: Path, folder: Path, links: bool, max_pixels: int, budget: PixelBudget
) -> PlacedImage:
    with open_file(original):
        pass
    if image.plain_suffix is not None:
        target = folder / f"{image.name}{image.plain_suffix}"
        how: Placing = ("linked" if link_or_copy(original, target) else "copied") if links else _copy(original, target)
        # What is hashed is what is exported: the original may change at any time.
        digest = file_sha256(target)
        if digest == image.sha256 and _ends_well(target, image.image_format):
            return PlacedImage(target, digest, how)
        target.unlink()
        if digest != image.sha256:
            raise UnreadableFileError("has changed since it was labelled")
    target = folder / f"{image.name}.png"
    with budget.hold(image.width * image.height):
        pixels = read_file(ImageFile(str(original), image.sha256, page=image.frame_idx), max_pixels=max_pixels)
        Pillow.fromarray(_without_ignored(pixels, image) if image.ignored else pixels).save(target, format="PNG")
        del pixels
    return PlacedImage(target, file_sha256(target), "written")


def _copy(original: Path, target: Path) -> Placing:
    if sys.platform == "linux":
        import fcntl

        with original.open("rb") as source, target.open("wb") as clone:
            try:
                fcntl.ioctl(clone.fileno(), _FICLONE, source.fileno())
            except OSError:
                pass
            else:
                return "cloned"
    shutil.copyfile(original, target)
    return "copied"


def _ends_well(path: Path, image_format: str) -> bool:
    if image_format != "JPEG":
        return True
    with path.open("rb") as file:
        file.seek(-len(_JPEG_END), os.SEEK_END)
        return file.read() == _JPEG_END


def _without_ignored(pixels: Image, image: DatasetImage) -> Image:
    """The picture with the ignored objects painted grey, but for what belongs to the others."""
    region = np.zeros(pixels.shape[:2], dtype=np.uint8)
    kernel = np.ones((2 * _IGNORED_MARGIN + 1,) * 2, dtype=np.uint8)
    for item in image.ignored:
        covered = _pixels_of(item, image).astype(np.uint8)
        region |= covered if item.rle is None else np.asarray(cv2.dilate(covered, kernel), dtype=np.uint8)
    for item in image.objects:
        region[_pixels_of(item, image)] = 0
    return np.where(region[:, :, None] == 1, np.uint8(_IGNORED_GREY), pixels)


def _pixels_of(item: DatasetObject, image: DatasetImage) -> NDArray[np.bool_]:
    """The pixels of an object's mask, or of its box if it has none: (height, width), bool."""
    if item.rle is not None:
        return rle.decode(item.rle, image.width, image.height)
    x, y, w, h = item.bbox
    covered = np.zeros((image.height, image.width), dtype=np.bool_)
    covered[max(0, int(np.floor(y))) : max(0, int(np.ceil(y + h))), max(0, int(np.floor(x))) : int(np.ceil(x + w))] = (
        True
    )
    return covered
