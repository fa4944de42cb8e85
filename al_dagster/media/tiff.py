"""The pages of a TIFF file in colours, of every depth, sample format and meaning that the format allows."""

import math
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image as Pillow
from PIL import ImageCms

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.pixels import Image, extent, known_orientation, likely_range, opaque_rgb, rgb, scaled
from al_dagster.media.tiff_layout import (
    DECODED,
    LOSSLESS,
    OLD_JPEG,
    RAW,
    Layout,
    Photometric,
    SampleFormat,
    Tag,
    damaged,
    many,
    page_layout,
    predictor_of,
    read_directory,
    states_range,
    subsampling_of,
    whole_number,
)
from al_dagster.media.tiff_samples import Samples, encoded_picture, samples_of, subsampled

_COLOURS: dict[int, int] = {
    Photometric.WHITE_IS_ZERO: 1,
    Photometric.BLACK_IS_ZERO: 1,
    Photometric.RGB: 3,
    Photometric.PALETTE: 1,
    Photometric.CMYK: 4,
    Photometric.YCBCR: 3,
    Photometric.CIELAB: 3,
}
_MODES: dict[int, str] = {
    Photometric.PALETTE: "P",
    Photometric.CMYK: "CMYK",
    Photometric.YCBCR: "YCbCr",
    Photometric.CIELAB: "LAB",
}
_ASSOCIATED, _UNASSOCIATED = 1, 2


class TiffPage(NamedTuple):
    """A decoded page.

    Attributes:
        picture: mode RGB, not yet turned upright.
        mode: how the page stores a pixel, as Pillow would name it.
        orientation: 1 to 8.
        exif: the tags of the page's EXIF directory.
    """

    picture: Pillow.Image
    mode: str
    orientation: int
    exif: dict[int, Any]


def read_page(file: BinaryIO, offset: int, max_pixels: int) -> TiffPage:
    """Decode a page of an open TIFF.

    Args:
        file: open for binary reading.
        offset: where the page begins.
        max_pixels: a page of more pixels than this is refused before it is decoded.

    Raises:
        UnreadableFileError: it cannot be read; the message is the reason.
    """
    layout = page_layout(file, read_directory(file, offset), max_pixels)
    if layout.compression in DECODED or _is_usual(layout):
        picture = _decoded(file, layout, offset)
    elif layout.compression in LOSSLESS:
        picture = _interpreted(file, layout)
    else:
        raise UnreadableFileError(
            f"is a TIFF file of compression {layout.compression}, which cannot be read: save it with deflate"
        )
    return TiffPage(
        picture, _mode(layout), known_orientation(layout.tags.get(Tag.ORIENTATION)), _exif(file, layout.tags)
    )


def _exif(file: BinaryIO, tags: dict[int, Any]) -> dict[int, Any]:
    try:
        return read_directory(file, int(tags[Tag.EXIF])) if Tag.EXIF in tags else {}
    except Exception:
        # As of any other format: a damaged EXIF block takes nothing from the picture.
        return {}


def _is_usual(layout: Layout) -> bool:
    """Whether Pillow gives what is to be seen, and faster than it can be made from the samples."""
    return (
        layout.compression in LOSSLESS - {RAW}
        and layout.bits == 8
        and layout.sample_format == SampleFormat.UNSIGNED
        and (layout.photometric, layout.channels) in ((Photometric.BLACK_IS_ZERO, 1), (Photometric.RGB, 3))
        and layout.planes == 1
        and predictor_of(layout) in (1, 2)
        and whole_number(layout.tags, Tag.FILL_ORDER, 1) == 1
        and len(layout.offsets) == layout.across * layout.down
        and not states_range(layout)
    )


def _mode(layout: Layout) -> str:
    if layout.photometric in _MODES:
        return _MODES[layout.photometric]
    alpha = "A" if _alpha(layout) else ""
    if layout.photometric == Photometric.RGB:
        return "RGB" + alpha
    if alpha or layout.bits == 8:
        return "L" + alpha
    if layout.bits == 1:
        return "1"
    return "F" if layout.sample_format == SampleFormat.FLOAT else "I;16" if layout.bits == 16 else "I"


def _interpreted(file: BinaryIO, layout: Layout) -> Pillow.Image:
    """The picture of a page whose samples can be had as they are."""
    colours = _COLOURS.get(layout.photometric)
    if colours is None:
        raise UnreadableFileError(
            f"is a TIFF file of the photometric interpretation {layout.photometric}, which cannot be read"
        )
    if layout.channels < colours:
        raise UnreadableFileError(damaged(f"{layout.channels} channels where its colours need {colours}"))
    if layout.photometric == Photometric.YCBCR and subsampling_of(layout) != (1, 1):
        return rgb(_from_ycbcr(subsampled(file, layout), layout))
    samples = samples_of(file, layout)
    colour = samples[..., :colours]
    if layout.photometric == Photometric.PALETTE:
        return rgb(_from_palette(colour[..., 0], layout), _alpha_of(samples, layout))
    if layout.photometric == Photometric.YCBCR:
        return rgb(_from_ycbcr(colour, layout))
    if layout.photometric == Photometric.CIELAB:
        return _from_lab(colour, layout)
    low, high = _range(colour, layout)
    eight = scaled(colour, low, high)
    if layout.photometric == Photometric.CMYK:
        if whole_number(layout.tags, Tag.INK_SET, 1) != 1:
            raise UnreadableFileError("is a TIFF file of inks that are not cyan, magenta, yellow and black")
        return Pillow.fromarray(np.ascontiguousarray(eight), mode="CMYK").convert("RGB")
    if layout.photometric == Photometric.WHITE_IS_ZERO:
        eight = 255 - eight
    alpha = _alpha(layout)
    return rgb(
        eight[..., 0] if colours == 1 else eight,
        _alpha_of(samples, layout),
        premultiplied=alpha is not None and alpha[1] == _ASSOCIATED,
    )


def _range(values: Samples, layout: Layout) -> tuple[float, float]:
    """The black and the white value: as stated, unless values contradict the statement, else as is likely."""
    if layout.sample_format in (SampleFormat.UNSIGNED, SampleFormat.UNDEFINED) and layout.bits not in (16, 24, 32, 64):
        default: tuple[float, float] = (0, 2**layout.bits - 1)
    else:
        default = likely_range(values)
    for minimum, maximum in ((Tag.SMIN, Tag.SMAX), (Tag.MIN, Tag.MAX)):
        lows, highs = (
            [float(value) for value in many(layout.tags, tag) if math.isfinite(value)] for tag in (minimum, maximum)
        )
        if not lows and not highs:
            continue
        smallest, greatest = extent(values)
        low = min(lows) if lows else min(0, smallest)
        high = max(highs) if highs else default[1]
        if low <= smallest and greatest <= high and low < high:
            return low, high
    return default


def _alpha(layout: Layout) -> tuple[int, int] | None:
    """The channel of the alpha and its kind, if the page has one."""
    colours = _COLOURS.get(layout.photometric, layout.channels)
    if layout.photometric not in (
        Photometric.WHITE_IS_ZERO,
        Photometric.BLACK_IS_ZERO,
        Photometric.RGB,
        Photometric.PALETTE,
    ):
        return None
    extras = many(layout.tags, Tag.EXTRA_SAMPLES)
    if layout.photometric == Photometric.RGB and layout.channels == 4 and extras in ((), (999,)):
        # Without a word on the fourth channel every reader takes it for an alpha; 999 is an old CorelDRAW.
        return 3, _UNASSOCIATED
    for place, kind in enumerate(extras):
        if kind in (_ASSOCIATED, _UNASSOCIATED) and colours + place < layout.channels:
            return colours + place, kind
    return None


def _alpha_of(samples: Samples, layout: Layout) -> Image | None:
    alpha = _alpha(layout)
    if alpha is None:
        return None
    values = samples[..., alpha[0]]
    if layout.sample_format == SampleFormat.FLOAT:
        return scaled(values, 0, 1)
    if layout.sample_format == SampleFormat.SIGNED:
        return scaled(values, 0, 2 ** (layout.bits - 1) - 1)
    if layout.bits == 16:
        return scaled(values, *likely_range(values))
    return scaled(values, 0, 2**layout.bits - 1)


def _from_palette(indices: Samples, layout: Layout) -> Image:
    entries = 2**layout.bits
    colours = np.array(many(layout.tags, Tag.COLOUR_MAP), dtype=np.uint16)
    if layout.sample_format not in (SampleFormat.UNSIGNED, SampleFormat.UNDEFINED) or len(colours) != 3 * entries:
        raise UnreadableFileError(damaged("its palette does not fit its samples"))
    # Old writers filled the palette with values of 8 bits.
    eight = scaled(colours, 0, 255 if colours.max(initial=0) < 256 else 65535)
    palette = eight.reshape(3, entries).T
    return np.take(palette, indices.astype(np.intp), axis=0)


def _from_lab(values: Samples, layout: Layout) -> Pillow.Image:
    if layout.bits not in (8, 16):
        raise UnreadableFileError(f"is a TIFF file of CIE L*a*b* colours of {layout.bits} bits, which cannot be read")
    if layout.bits == 16:
        lightness = scaled(values[..., :1].astype(np.uint16), 0, 65535)
        signed = np.rint(values[..., 1:].astype(np.uint16).view(np.int16) / 256).clip(-128, 127).astype(np.int8)
        values = np.concatenate([lightness, signed.view(np.uint8)], axis=2)
    size = (layout.width, layout.height)
    lab = Pillow.frombytes("LAB", size, np.ascontiguousarray(values.astype(np.uint8)).tobytes(), "raw", "LAB")
    profiles = ImageCms.createProfile("LAB", 5000), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(*profiles, "LAB", "RGB")
    return transform.apply(lab)


def _from_ycbcr(values: Samples, layout: Layout) -> Image:
    if layout.bits != 8 or layout.sample_format not in (SampleFormat.UNSIGNED, SampleFormat.UNDEFINED):
        raise UnreadableFileError(f"is a TIFF file of YCbCr colours of {layout.bits} bits, which cannot be read")
    stated = many(layout.tags, Tag.YCBCR_COEFFICIENTS)
    red, green, blue = (float(value) for value in (stated if len(stated) == 3 else (0.299, 0.587, 0.114)))
    stated = many(layout.tags, Tag.REFERENCE_BLACK_WHITE)
    limits = [float(value) for value in (stated if len(stated) == 6 else (0, 255, 128, 255, 128, 255))]
    if not green or limits[0] == limits[1] or limits[2] == limits[3] or limits[4] == limits[5]:
        raise UnreadableFileError(damaged("its colours are stated in a way that makes no sense"))
    result = np.empty(values.shape, dtype=np.uint8)
    rows = max(1, 2**22 // values[:1].size)
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.float32)
        luma = (part[..., 0] - limits[0]) * (255 / (limits[1] - limits[0]))
        to_blue = (part[..., 1] - limits[2]) * (127 / (limits[3] - limits[2])) * (2 - 2 * blue) + luma
        to_red = (part[..., 2] - limits[4]) * (127 / (limits[5] - limits[4])) * (2 - 2 * red) + luma
        to_green = (luma - blue * to_blue - red * to_red) / green
        result[start : start + rows] = np.rint(np.dstack([to_red, to_green, to_blue])).clip(0, 255)
    return result


def _decoded(file: BinaryIO, layout: Layout, offset: int) -> Pillow.Image:
    """The picture of a page whose compression knows of pixels, as Pillow decodes it."""
    if layout.bits not in (1, 8) or layout.sample_format not in (SampleFormat.UNSIGNED, SampleFormat.UNDEFINED):
        raise UnreadableFileError(f"is a TIFF file of JPEG data of {layout.bits} bits, which cannot be read")
    picture = encoded_picture(file, layout, offset)
    if (
        picture.mode not in ("L", "RGB")
        or layout.compression == OLD_JPEG
        or layout.photometric == Photometric.YCBCR
        or not states_range(layout)
    ):
        return opaque_rgb(picture)
    values = np.asarray(picture)
    if layout.photometric == Photometric.WHITE_IS_ZERO:
        # Pillow has turned the values round, and the stated range with them.
        values = 255 - values
    eight = scaled(values, *_range(values, layout))
    return rgb(255 - eight if layout.photometric == Photometric.WHITE_IS_ZERO else eight)
