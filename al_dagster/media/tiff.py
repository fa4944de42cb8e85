"""The pages of a TIFF file in colours, of every depth, sample format and meaning that the format allows."""

import math
import struct
from io import BytesIO
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image as Pillow
from PIL import ImageCms
from PIL.TiffImagePlugin import TiffImageFile
from tifffile import COMPRESSION, PHOTOMETRIC, SAMPLEFORMAT, TiffPage

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.pixels import Admit, Image, extent, known_orientation, likely_range, opaque_rgb, rgb, scaled
from al_dagster.media.tiff_pages import (
    Place,
    Samples,
    damaged,
    exif_of,
    numbers,
    open_page,
    samples_of,
    subsampled,
    subsampling_of,
)

_COLOURS: dict[int, int] = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.SEPARATED: 4,
    PHOTOMETRIC.YCBCR: 3,
    PHOTOMETRIC.CIELAB: 3,
}
_MODES: dict[int, str] = {
    PHOTOMETRIC.PALETTE: "P",
    PHOTOMETRIC.SEPARATED: "CMYK",
    PHOTOMETRIC.YCBCR: "YCbCr",
    PHOTOMETRIC.CIELAB: "LAB",
}
_ASSOCIATED, _UNASSOCIATED = 1, 2


class TiffPicture(NamedTuple):
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


def read_page(file: BinaryIO, place: Place, max_pixels: int, admit: Admit) -> TiffPicture:
    """Decode a page of an open TIFF.

    Args:
        file: open for binary reading.
        place: where the page is.
        max_pixels: a page of more pixels than this is refused before it is decoded.
        admit: is given the page's pixels before it is decoded.

    Raises:
        UnreadableFileError: it cannot be read; the message is the reason.
    """
    page = open_page(file, place, max_pixels)
    admit(page.imagewidth * page.imagelength)
    picture = _old_jpeg(file, place) if page.compression == COMPRESSION.OJPEG else _interpreted(page)
    orientation = next(iter(numbers(page, "Orientation")), 1)
    return TiffPicture(picture, _mode(page), known_orientation(orientation), exif_of(page))


def _mode(page: TiffPage) -> str:
    if page.photometric in _MODES:
        return _MODES[page.photometric]
    alpha = "A" if _alpha(page) else ""
    if page.photometric == PHOTOMETRIC.RGB:
        return "RGB" + alpha
    if alpha or page.bitspersample == 8:
        return "L" + alpha
    if page.bitspersample == 1:
        return "1"
    return "F" if page.sampleformat == SAMPLEFORMAT.IEEEFP else "I;16" if page.bitspersample == 16 else "I"


def _interpreted(page: TiffPage) -> Pillow.Image:
    """The picture of a page whose samples can be had as they are."""
    colours = _COLOURS.get(page.photometric)
    if colours is None:
        raise UnreadableFileError(
            f"is a TIFF file of the photometric interpretation {page.photometric}, which cannot be read"
        )
    if page.samplesperpixel < colours:
        raise UnreadableFileError(damaged(f"{page.samplesperpixel} channels where its colours need {colours}"))
    if subsampling_of(page) != (1, 1):
        return rgb(_from_ycbcr(subsampled(page), page))
    samples = samples_of(page)
    colour = samples[..., :colours]
    if page.photometric == PHOTOMETRIC.PALETTE:
        return rgb(_from_palette(colour[..., 0], page), _alpha_of(samples, page))
    if page.photometric == PHOTOMETRIC.YCBCR and (page.compression != COMPRESSION.JPEG or page.planarconfig == 2):
        return rgb(_from_ycbcr(colour, page))
    if page.photometric == PHOTOMETRIC.CIELAB:
        return _from_lab(colour, page)
    low, high = _range(colour, page)
    eight = scaled(colour, low, high)
    if page.photometric == PHOTOMETRIC.SEPARATED:
        if numbers(page, "InkSet") not in ((), (1,)):
            raise UnreadableFileError("is a TIFF file of inks that are not cyan, magenta, yellow and black")
        return Pillow.fromarray(np.ascontiguousarray(eight), mode="CMYK").convert("RGB")
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        eight = 255 - eight
    alpha = _alpha(page)
    return rgb(
        eight[..., 0] if colours == 1 else eight,
        _alpha_of(samples, page),
        premultiplied=alpha is not None and alpha[1] == _ASSOCIATED,
    )


def _range(values: Samples, page: TiffPage) -> tuple[float, float]:
    """The black and the white value: as stated, unless values contradict the statement, else as is likely."""
    if page.sampleformat in (SAMPLEFORMAT.UINT, SAMPLEFORMAT.VOID) and page.bitspersample not in (16, 24, 32, 64):
        default: tuple[float, float] = (0, 2**page.bitspersample - 1)
    else:
        default = likely_range(values)
    for minimum, maximum in (("SMinSampleValue", "SMaxSampleValue"), ("MinSampleValue", "MaxSampleValue")):
        lows, highs = (
            [float(value) for value in numbers(page, tag) if math.isfinite(value)] for tag in (minimum, maximum)
        )
        if not lows and not highs:
            continue
        smallest, greatest = extent(values)
        low = min(lows) if lows else min(0, smallest)
        high = max(highs) if highs else default[1]
        if low <= smallest and greatest <= high and low < high:
            return low, high
    return default


def _alpha(page: TiffPage) -> tuple[int, int] | None:
    """The channel of the alpha and its kind, if the page has one."""
    colours = _COLOURS.get(page.photometric, page.samplesperpixel)
    if page.photometric not in (
        PHOTOMETRIC.MINISWHITE,
        PHOTOMETRIC.MINISBLACK,
        PHOTOMETRIC.RGB,
        PHOTOMETRIC.PALETTE,
    ):
        return None
    extras = numbers(page, "ExtraSamples")
    if page.photometric == PHOTOMETRIC.RGB and page.samplesperpixel == 4 and extras in ((), (999,)):
        # Without a word on the fourth channel every reader takes it for an alpha; 999 is an old CorelDRAW.
        return 3, _UNASSOCIATED
    for place, kind in enumerate(extras):
        if kind in (_ASSOCIATED, _UNASSOCIATED) and colours + place < page.samplesperpixel:
            return colours + place, kind
    return None


def _alpha_of(samples: Samples, page: TiffPage) -> Image | None:
    alpha = _alpha(page)
    if alpha is None:
        return None
    values = samples[..., alpha[0]]
    if page.sampleformat == SAMPLEFORMAT.IEEEFP:
        return scaled(values, 0, 1)
    if page.sampleformat == SAMPLEFORMAT.INT:
        return scaled(values, 0, 2 ** (page.bitspersample - 1) - 1)
    if page.bitspersample == 16:
        return scaled(values, *likely_range(values))
    return scaled(values, 0, 2**page.bitspersample - 1)


def _from_palette(indices: Samples, page: TiffPage) -> Image:
    entries = 2**page.bitspersample
    colours = np.array(numbers(page, "ColorMap"), dtype=np.uint16)
    if page.sampleformat not in (SAMPLEFORMAT.UINT, SAMPLEFORMAT.VOID) or len(colours) != 3 * entries:
        raise UnreadableFileError(damaged("its palette does not fit its samples"))
    # Old writers filled the palette with values of 8 bits.
    eight = scaled(colours, 0, 255 if colours.max(initial=0) < 256 else 65535)
    palette = eight.reshape(3, entries).T
    return np.take(palette, indices.astype(np.intp), axis=0)


def _from_lab(values: Samples, page: TiffPage) -> Pillow.Image:
    if page.bitspersample not in (8, 16):
        raise UnreadableFileError(
            f"is a TIFF file of CIE L*a*b* colours of {page.bitspersample} bits, which cannot be read"
        )
    if page.bitspersample == 16:
        lightness = scaled(values[..., :1].astype(np.uint16), 0, 65535)
        signed = np.rint(values[..., 1:].astype(np.uint16).view(np.int16) / 256).clip(-128, 127).astype(np.int8)
        values = np.concatenate([lightness, signed.view(np.uint8)], axis=2)
    size = (page.imagewidth, page.imagelength)
    lab = Pillow.frombytes("LAB", size, np.ascontiguousarray(values.astype(np.uint8)).tobytes(), "raw", "LAB")
    profiles = ImageCms.createProfile("LAB", 5000), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(*profiles, "LAB", "RGB")
    return transform.apply(lab)


def _from_ycbcr(values: Samples, page: TiffPage) -> Image:
    if page.bitspersample != 8 or page.sampleformat not in (SAMPLEFORMAT.UINT, SAMPLEFORMAT.VOID):
        raise UnreadableFileError(f"is a TIFF file of YCbCr colours of {page.bitspersample} bits, which cannot be read")
    stated = numbers(page, "YCbCrCoefficients")
    red, green, blue = (float(value) for value in (stated if len(stated) == 3 else (0.299, 0.587, 0.114)))
    stated = numbers(page, "ReferenceBlackWhite")
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


def _old_jpeg(file: BinaryIO, place: Place) -> Pillow.Image:
    """The picture of a page of the JPEG of TIFF 6.0, whose tables lie anywhere in the file, as Pillow decodes it."""
    file.seek(0)
    content = bytearray(file.read())
    order, big = "<" if content[:2] == b"II" else ">", 43 in content[2:4]
    # Pillow reads the first page of a file.
    struct.pack_into(order + ("Q" if big else "L"), content, 8 if big else 4, place.offset)
    picture = TiffImageFile(BytesIO(content), "")
    picture.load()
    return opaque_rgb(picture)
