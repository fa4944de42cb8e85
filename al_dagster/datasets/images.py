"""Image files of an export: linked where the original serves as it is, else copied or written anew."""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image as Pillow

from al_dagster.core.errors import UnreadableFileError
from al_dagster.core.hashing import file_sha256
from al_dagster.datasets.frozen import DatasetImage
from al_dagster.media.reading import open_file, read_image

Placing = Literal["linked", "copied", "written"]

_JPEG_END = b"\xff\xd9"


@dataclass(frozen=True)
class PlacedImage:
    """An image file of an export.

    Args:
        path: the file.
        sha256: of its bytes.
        how: linked to the original, copied from it, or written anew.
    """

    path: Path
    sha256: str
    how: Placing


def image_folder(split: str) -> Path:
    """Where the images of a split stand in an export of any format."""
    return Path("images", split)


def place_image(image: DatasetImage, folder: Path, *, max_pixels: int) -> PlacedImage:
    """Put an image into a folder of an export, under its id.

    A plain file is linked, or copied where the file system cannot link. Any other becomes an upright 8-bit RGB PNG.
    So does a JPEG that does not end as a JPEG should: training rewrites such files, which through a link would change
    the original.

    Args:
        image: what to place.
        folder: an existing folder.
        max_pixels: an original of more pixels than this is not decoded.

    Raises:
        UnreadableFileError: the original has vanished, cannot be read or has changed since it was registered.
    """
    original = Path(image.file_path)
    digest, ends_well = _inspect(original, image.image_format)
    if digest != image.sha256:
        raise UnreadableFileError("has changed since it was labelled")
    if image.linked_suffix is None or not ends_well:
        target = folder / f"{image.name}.png"
        Pillow.fromarray(read_image(original, max_pixels=max_pixels)).save(target, format="PNG")
        return PlacedImage(target, file_sha256(target), "written")
    target = folder / f"{image.name}{image.linked_suffix}"
    return PlacedImage(target, digest, link_or_copy(original, target))


def link_or_copy(original: Path, target: Path) -> Placing:
    """Make a file appear at a second path, as a hard link where the file system allows it."""
    try:
        os.link(original.resolve(), target)
    except OSError:
        shutil.copyfile(original, target)
        return "copied"
    return "linked"


def _inspect(path: Path, image_format: str) -> tuple[str, bool]:
    with open_file(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if image_format != "JPEG":
            return digest, True
        file.seek(-len(_JPEG_END), os.SEEK_END)
        return digest, file.read() == _JPEG_END
