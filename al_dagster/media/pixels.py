"""Pixels of any kind as upright RGB of 8 bits: what values mean, what is transparent, which way is up."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as Pillow

from al_dagster.core.errors import UnreadableFileError

Image = NDArray[np.uint8]

Admit = Callable[[int], None]
"""Takes the number of pixels of a picture that is about to be decoded, and may wait."""

_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
_DEPTHS = (8, 10, 12, 14, 16)
"""The depths that cameras store in 16 bits."""
_INNER = (0.05, 99.95)
"""Percentiles between which nearly all values of a picture lie."""
_NARROW = 1 / 64
"""Share of the whole range below which these leave four grey levels or fewer to the picture."""


def admit_at_once(pixels: int) -> None:
    """Admit a picture without waiting."""


def require_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a picture that is too large before it is decoded.

    Raises:
        UnreadableFileError: it has more pixels than ``max_pixels``.
    """
    if width * height > max_pixels:
        raise UnreadableFileError(
            f"decodes to {_millions(width * height)} megapixels; the limit is {_millions(max_pixels)} "
            "(AL_MAX_IMAGE_PIXELS)"
        )


def orientation(picture: Pillow.Image) -> int:
    """The EXIF orientation of a picture, 1 (upright) to 8; 1 where it has none or one that cannot be read."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Viewers show a picture whose EXIF block is damaged as it lies, and Pillow has no one error for such a block.
        return 1
    return known_orientation(value)


def known_orientation(value: object) -> int:
    """The value where it is an orientation, 1 (upright) where it is not."""
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def upright(picture: Pillow.Image, turned: int) -> Pillow.Image:
    """A picture turned the way that an EXIF orientation of 1 to 8 says."""
    turn = _UPRIGHT.get(turned)
    return picture.transpose(turn) if turn is not None else picture


def opaque_rgb(picture: Pillow.Image) -> Pillow.Image:
    """A decoded picture in mode RGB.

    Transparent pixels are laid on white: cut-outs, logos and screenshots are made for a white page, and black would
    draw an edge round them that a detector takes for an object.

    Raises:
        ValueError: the picture's mode cannot become RGB.
    """
    if picture.mode.startswith("I;16"):
        # Only JPEG 2000 comes this way, whose decoder has scaled every depth to 16 bits.
        picture = Pillow.fromarray(scaled(np.asarray(picture), 0, 2**16 - 1))
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", layer.size, "white"), layer).convert("RGB")


def rgb(colour: Image, alpha: Image | None = None, *, premultiplied: bool = False) -> Pillow.Image:
    """A picture in mode RGB from 8-bit values, laid on white where it is transparent.

    Args:
        colour: (height, width) grey or (height, width, 3) RGB, uint8.
        alpha: (height, width), uint8, 255 where the picture is opaque.
        premultiplied: the colours have been multiplied by their alpha.
    """
    if alpha is not None and premultiplied:
        white = 255 - (alpha if colour.ndim == 2 else alpha[..., None])
        colour, alpha = colour + np.minimum(white, 255 - colour), None
    picture = Pillow.fromarray(np.ascontiguousarray(colour))
    picture = picture if picture.mode == "RGB" else picture.convert("RGB")
    if alpha is None or alpha.min(initial=255) == 255:
        return picture
    picture.putalpha(Pillow.fromarray(np.ascontiguousarray(alpha)))
    return opaque_rgb(picture)


def scaled(values: NDArray[np.generic], low: float, high: float) -> Image:
    """Values with ``low`` as 0 and ``high`` as 255, linearly; those outside are clipped, those that are no numbers 0.

    Args:
        values: numbers of any shape and dtype.
        low: the value that is black.
        high: the value that is white; where it is not above ``low``, all is black.
    """
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values.astype(np.uint8, copy=False)
    if values.dtype in (np.uint8, np.uint16):
        every = np.arange(256**values.dtype.itemsize)
        return np.asarray(_scaled(every, low, high)[values], dtype=np.uint8)
    rows = max(1, 2**22 // max(1, values[:1].size))
    result = np.empty(values.shape, dtype=np.uint8)
    for start in range(0, len(values), rows):
        result[start : start + rows] = _scaled(values[start : start + rows], low, high)
    return result


def _scaled(values: NDArray[np.generic], low: float, high: float) -> Image:
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    with np.errstate(invalid="ignore"):
        exact = np.asarray(values, dtype=np.float64)
    finite = np.where(np.isfinite(exact), exact, low)
    return np.rint((finite - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def likely_range(values: NDArray[np.generic]) -> tuple[float, float]:
    """The black and the white value of numbers whose file states none.

    - unsigned, 8 bits: the whole range.
    - unsigned, 16 bits: the smallest of 8, 10, 12, 14 and 16 bits that holds them all, as cameras store them.
    - floating point between 0 and 1: 0 and 1.
    - all others have no agreed range: their smallest and their greatest value. A few values far from all others, as
      hot pixels and marks for "no data" are, do not count: they would leave a handful of grey levels to the rest.

    Raises:
        UnreadableFileError: none of them is a number.
    """
    if values.dtype == np.uint8:
        return 0, 255
    if values.dtype == np.uint16:
        needed = int(values.max(initial=0)).bit_length()
        return 0, 2 ** min(depth for depth in _DEPTHS if depth >= needed) - 1
    known = _numbers(values)
    if not known.size:
        raise UnreadableFileError("holds no numbers, only NaN and infinity")
    low, high = float(known.min()), float(known.max())
    inner_low, inner_high = (float(value) for value in np.percentile(np.asarray(known), _INNER, method="nearest"))
    if 0 < inner_high - inner_low < (high - low) * _NARROW:
        low, high = inner_low, inner_high
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0, 1
    return low, high


def extent(values: NDArray[np.generic]) -> tuple[float, float]:
    """The smallest and the greatest of the values that are numbers; 0 and 0 without any."""
    known = _numbers(values)
    return (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)


def _numbers(values: NDArray[np.generic]) -> NDArray[np.generic]:
    return values[np.isfinite(values)] if values.dtype.kind == "f" else values


def _millions(pixels: int) -> str:
    return f"{pixels / 1e6:.0f}" if pixels >= 10**9 else f"{pixels / 1e6:.4g}"
