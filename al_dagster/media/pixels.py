"""Any picture that Pillow decodes, as upright RGB of 8 bits."""

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as Pillow

Image = NDArray[np.uint8]

_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}


def orientation(picture: Pillow.Image) -> int:
    """The EXIF orientation of a picture, 1 (upright) to 8; 1 where it has none or one that cannot be read."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Viewers show a picture whose EXIF block is damaged as it lies, and Pillow has no one error for such a block.
        return 1
    return value if value in _UPRIGHT else 1


def upright_rgb(picture: Pillow.Image) -> Pillow.Image:
    """A decoded picture in mode RGB, turned the way its EXIF orientation says.

    Transparent pixels are laid on white: cut-outs, logos and screenshots are made for a white page, and black would
    draw an edge round them that a detector takes for an object. Grey of 16 bits keeps its upper 8, as Pillow does for
    colour of 16 bits; grey of 32 bits and floating point has no agreed range and is spread from its least to its
    greatest value.

    Raises:
        ValueError: the picture's mode cannot become RGB.
    """
    turn = _UPRIGHT.get(orientation(picture))
    picture = _opaque(_eight_bit(picture))
    return picture.transpose(turn) if turn is not None else picture


def _eight_bit(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        values = np.asarray(picture)
        grey = (values >> 8).astype(np.uint8)
        if isinstance(key := picture.info.get("transparency"), int):
            grey[values == key] = 255
    elif picture.mode in ("I", "F"):
        grey = _spread(np.asarray(picture, dtype=np.float64))
    else:
        return picture
    return Pillow.fromarray(grey)


def _spread(values: NDArray[np.float64]) -> Image:
    finite = np.isfinite(values)
    known = values[finite]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint((np.where(finite, values, low) - low) * scale).astype(np.uint8)


def _opaque(picture: Pillow.Image) -> Pillow.Image:
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:
        picture.info["transparency"] = tuple(value >> 8 for value in key)
    layer = picture.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", layer.size, "white"), layer).convert("RGB")
