"""PNG where Pillow alone loses something: 16 bits a channel, significant bits, a transparent grey of few bits."""

import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.ImageFile import ImageFile as PillowFile
from PIL.PngImagePlugin import PngImageFile

from al_dagster.media.pixels import Image, likely_range, opaque_rgb, rgb, scaled

_GREY, _RGB, _PALETTE, _GREY_ALPHA = 0, 2, 3, 4


def rgb_of_png(file: BinaryIO, picture: PillowFile) -> Pillow.Image:
    """The picture of a PNG in mode RGB, not yet turned upright.

    16 bits a channel are scaled to 8. An ``sBIT`` chunk states how many bits are significant: as the standard wants
    it, samples fill their whole range; where a writer left them at the lower end, the stated bits are the range.

    Args:
        file: the open file.
        picture: the file as Pillow opened it, not yet loaded.
    """
    depth, colour_type, significant = _facts(file)
    fewer = significant is not None and colour_type != _PALETTE and significant < depth
    if depth < 16 and not fewer:
        picture.load()
        if depth in (2, 4) and isinstance(key := picture.info.get("transparency"), int):
            picture.info["transparency"] = key * 255 // (2**depth - 1)
        return opaque_rgb(picture)
    key = picture.info.get("transparency")
    samples = _deep(file, picture, colour_type) if depth == 16 else _shallow(picture, depth)
    channels = samples.shape[2]
    colours = samples[..., : channels - (channels in (2, 4))]
    high = _stated(colours, depth, significant) if significant is not None else likely_range(colours)[1]
    eight = scaled(colours, 0, high)
    alpha: Image | None = None
    if channels in (2, 4):
        alpha = scaled(samples[..., -1], 0, 2**depth - 1)
    elif isinstance(key, (int, tuple)):
        alpha = np.where((colours == np.asarray(key)).all(axis=2), 0, 255).astype(np.uint8)
    return rgb(eight[..., 0] if eight.shape[2] == 1 else eight, alpha)


def _facts(file: BinaryIO) -> tuple[int, int, int | None]:
    """Bits of a sample, colour type, and the greatest number of significant bits of a colour, if it is stated."""
    file.seek(24)
    depth, colour_type = file.read(2)
    file.seek(33)
    significant = None
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"PLTE", b"IDAT"):
            break
        if kind == b"sBIT" and 1 <= length <= 4:
            stated = file.read(length)[: 1 if colour_type in (_GREY, _GREY_ALPHA) else 3]
            significant = max(stated) if stated and 1 <= max(stated) <= depth else None
            break
        file.seek(length + 4, 1)
    return depth, colour_type, significant


def _shallow(picture: PillowFile, depth: int) -> NDArray[np.uint16]:
    picture.load()
    if picture.mode == "1":
        return np.asarray(picture, dtype=np.uint16)[..., None]
    values = np.asarray(picture, dtype=np.uint16) // (255 // (2**depth - 1))
    return values[..., None] if values.ndim == 2 else values


def _deep(file: BinaryIO, picture: PillowFile, colour_type: int) -> NDArray[np.uint16]:
    if colour_type == _GREY:
        picture.load()
        return np.asarray(picture, dtype=np.uint16)[..., None]
    if colour_type == _GREY_ALPHA:
        # Four bytes a pixel are what four channels of 8 bits have: the filters undo them alike.
        parts = _loaded(file, "RGBA", "RGBA").astype(np.uint16)
        return np.left_shift(parts[..., ::2], 8, dtype=np.uint16) | parts[..., 1::2]
    mode = "RGB" if colour_type == _RGB else "RGBA"
    # Pillow keeps one byte of each sample: the upper one, or, told that the lower one comes first, the other.
    upper, lower = (_loaded(file, mode, f"{mode};16{order}") for order in "BL")
    return np.left_shift(upper.astype(np.uint16), 8, dtype=np.uint16) | lower


def _loaded(file: BinaryIO, mode: str, raw_mode: str) -> Image:
    file.seek(0)
    picture: Any = PngImageFile(file, "")
    picture._mode = mode
    picture.tile = [tile._replace(args=raw_mode) for tile in picture.tile]
    picture.info.pop("transparency", None)
    picture.load()
    return np.asarray(picture)


def _stated(colours: NDArray[np.uint16], depth: int, significant: int) -> int:
    """The white value where so many bits are stated to be significant."""
    rest = 2 ** (depth - significant) - 1
    at_lower_end = rest and int(colours.max(initial=0)).bit_length() <= significant and (colours & rest).any()
    return 2 ** (significant if at_lower_end else depth) - 1
