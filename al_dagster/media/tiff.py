"""The pages of a TIFF file, of every depth, sample format and meaning of colours that the format allows."""

import math
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageCms, TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.pixels import (
    Image,
    extent,
    known_orientation,
    likely_range,
    opaque_rgb,
    require_size,
    rgb,
    scaled,
)

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _SUB_DIRECTORIES = 254, 255, 330
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _CHANNELS, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 274, 277, 278, 279
_MIN, _MAX, _PLANAR, _T4_OPTIONS, _T6_OPTIONS, _PREDICTOR, _COLOUR_MAP = 280, 281, 284, 292, 293, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _INK_SET, _EXTRA_SAMPLES = 322, 323, 324, 325, 332, 338
_SAMPLE_FORMAT, _SMIN, _SMAX, _JPEG_TABLES = 339, 340, 341, 347
_YCBCR_COEFFICIENTS, _YCBCR_SUBSAMPLING, _REFERENCE_BLACK_WHITE = 529, 530, 532
_EXIF = 34665

_REDUCED, _MASK = 1, 4
_RAW, _OLD_JPEG, _JPEG = 1, 6, 7
_LOSSLESS = frozenset({_RAW, 5, 8, 32946, 32773, 34925, 50000})
"""Uncompressed, LZW, Deflate, PackBits, LZMA and Zstandard: what they hold can be asked for as bytes."""
_DECODED = frozenset({2, 3, 4, _JPEG, 50001})
"""Fax, JPEG and WebP, which decode to pixels of 1 or 8 bits."""

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _CIELAB = 0, 1, 2, 3, 5, 6, 8
_TRANSPARENCY_MASK = 4
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3, _CIELAB: 3}
_MODES = {_PALETTE: "P", _CMYK: "CMYK", _YCBCR: "YCbCr", _CIELAB: "LAB"}
_ASSOCIATED, _UNASSOCIATED = 1, 2
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
_CHUNK_BITS = 2**26

Samples = NDArray[Any]


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


def is_tiff(prefix: bytes) -> bool:
    """Whether a file that begins so is a TIFF or a BigTIFF."""
    return prefix[:4] in TiffImagePlugin.PREFIXES


def count_pages(file: BinaryIO) -> int:
    """How many pages an open TIFF has; reduced pictures (previews, pyramid levels) and masks are none.

    Raises:
        UnreadableFileError: it has no page.
    """
    return sum(1 for _ in _page_offsets(file))


def read_page(file: BinaryIO, page: int, max_pixels: int) -> TiffPage:
    """Decode a page of an open TIFF.

    Args:
        file: open for binary reading.
        page: its index among the pages that ``count_pages`` counts.
        max_pixels: a page of more pixels than this is refused before it is decoded.

    Raises:
        UnreadableFileError: there is no such page, or it cannot be read; the message is the reason.
    """
    offset = next(islice(_page_offsets(file), page, None), None)
    if offset is None:
        raise UnreadableFileError(f"has no page {page + 1}")
    layout = _layout(file, _directory(file, offset), max_pixels)
    if layout.compression in _LOSSLESS:
        picture = _interpreted(file, layout)
    elif layout.compression in (*_DECODED, _OLD_JPEG):
        picture = _decoded(file, layout, offset)
    else:
        raise UnreadableFileError(f"is a TIFF file of compression {layout.compression}, which cannot be read")
    return TiffPage(picture, _mode(layout), known_orientation(layout.tags.get(_ORIENTATION)), _exif(file, layout.tags))


# The chain of directories


def _page_offsets(file: BinaryIO) -> Iterator[int]:
    """Where the directories of the pages begin; one that lies beyond the file is a page that cannot be read."""
    first: tuple[int, bool] | None = None
    found = False
    for offset, types in _chain(file):
        if first is None:
            first = (offset, _SUB_DIRECTORIES in types)
        reduced = bool(types.get(_NEW_SUBFILE_TYPE, 0) & (_REDUCED | _MASK)) or types.get(_SUBFILE_TYPE) == 2
        if not reduced and types.get(_PHOTOMETRIC) != _TRANSPARENCY_MASK:
            found = True
            yield offset
    if first is None:
        raise UnreadableFileError("is truncated: the TIFF data ends too early")
    if not found:
        if first[1]:
            raise UnreadableFileError(
                "holds only a preview where a picture is expected (a camera's raw file?): convert it to TIFF or JPEG"
            )
        yield first[0]


def _chain(file: BinaryIO) -> Iterator[tuple[int, dict[int, int]]]:
    """The directories of the file: where each begins, and the values that tell what it is."""
    file.seek(0)
    header = file.read(16)
    order, big = _order(header)
    pointer, count_code, entry = ("Q", "Q", 20) if big else ("L", "H", 12)
    (offset,) = struct.unpack_from(order + pointer, header.ljust(16, b"\0"), 8 if big else 4)
    seen: set[int] = set()
    size = file.seek(0, 2)
    while offset and offset not in seen:
        seen.add(offset)
        file.seek(min(offset, size))
        head = file.read(struct.calcsize("=" + count_code))
        count = struct.unpack(order + count_code, head)[0] if len(head) == struct.calcsize("=" + count_code) else 0
        entries = file.read(count * entry) if count * entry <= size else b""
        after = file.read(struct.calcsize("=" + pointer))
        yield offset, _types(entries, order, entry)
        if len(after) < struct.calcsize("=" + pointer):
            return
        (offset,) = struct.unpack(order + pointer, after)


def _types(entries: bytes, order: str, entry: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for start in range(0, len(entries) - entry + 1, entry):
        tag, kind = struct.unpack_from(order + "HH", entries, start)
        if tag in (_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _PHOTOMETRIC, _SUB_DIRECTORIES):
            place = start + (12 if entry == 20 else 8)
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "L"), entries, place)
    return found


def _order(header: bytes) -> tuple[str, bool]:
    """Byte order in the notation of ``struct``, and whether offsets are of 64 bits."""
    return "<" if header[:2] == b"II" else ">", 43 in header[2:4]


def _directory(file: BinaryIO, offset: int) -> dict[int, Any]:
    file.seek(0)
    header = file.read(16)
    big = _order(header)[1]
    file.seek(offset)
    # Pillow warns of damaged tags and leaves them out; what is missing then is told by a sentence.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow looks for the version of a BigTIFF where it stands in a little-endian one.
        tags = ImageFileDirectory_v2(b"II+\0" + bytes(12) if big else b"II*\0" + bytes(4), prefix=header[:2])
        tags.load(file)
        return dict(tags)


def _exif(file: BinaryIO, tags: dict[int, Any]) -> dict[int, Any]:
    try:
        return _directory(file, int(tags[_EXIF])) if _EXIF in tags else {}
    except Exception:
        # As of any other format: a damaged EXIF block takes nothing from the picture.
        return {}


# The layout of a page


@dataclass(frozen=True)
class _Layout:
    """How the samples of a page lie in the file; a strip is a block as wide as the page."""

    tags: dict[int, Any]
    order: str
    width: int
    height: int
    channels: int
    bits: int
    sample_format: int
    compression: int
    photometric: int
    planes: int
    tiled: bool
    block_width: int
    block_height: int
    offsets: Sequence[int]
    sizes: Sequence[int]

    @property
    def across(self) -> int:
        return -(-self.width // self.block_width)

    @property
    def down(self) -> int:
        return -(-self.height // self.block_height)


def _many(tags: dict[int, Any], tag: int) -> tuple[Any, ...]:
    value = tags.get(tag, ())
    return tuple(value) if isinstance(value, (tuple, list, bytes)) else (value,)


def _whole_number(tags: dict[int, Any], tag: int, default: int) -> int:
    values = _many(tags, tag)
    return int(values[0]) if values else default


def _layout(file: BinaryIO, tags: dict[int, Any], max_pixels: int) -> _Layout:
    file.seek(0)
    order, _ = _order(file.read(4))
    width, height = (_whole_number(tags, tag, 0) for tag in (_WIDTH, _HEIGHT))
    if width < 1 or height < 1:
        raise UnreadableFileError("is truncated: the TIFF data ends too early" if not tags else _damaged("no size"))
    require_size(width, height, max_pixels)
    channels = _whole_number(tags, _CHANNELS, 1)
    compression = _whole_number(tags, _COMPRESSION, _RAW)
    planes = channels if _whole_number(tags, _PLANAR, 1) == 2 else 1
    tiled = _TILE_WIDTH in tags
    if tiled:
        block_width, block_height = (_whole_number(tags, tag, 0) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
    else:
        block_width, block_height = width, min(height, _whole_number(tags, _ROWS_PER_STRIP, height))
    if min(block_width, block_height, channels) < 1 or channels > 1000:
        raise UnreadableFileError(_damaged("its tags contradict each other"))
    require_size(-(-width // block_width) * block_width, -(-height // block_height) * block_height, 4 * max_pixels)
    offsets = _many(tags, _TILE_OFFSETS if tiled and _TILE_OFFSETS in tags else _STRIP_OFFSETS)
    sizes = _many(tags, _TILE_BYTES if tiled and _TILE_BYTES in tags else _STRIP_BYTES)
    if not offsets and compression != _OLD_JPEG:
        raise UnreadableFileError(_damaged("it holds no picture data"))
    end = file.seek(0, 2)
    if len(sizes) != len(offsets) or (len(sizes) == 1 and not sizes[0]):
        sizes = tuple(max(0, end - offset) for offset in offsets)
    if max(len(offsets), 1) > 1 and sum(sizes) > 2 * end:
        raise UnreadableFileError(_damaged("its strips are larger than the file"))
    return _Layout(
        tags=tags,
        order=order,
        width=width,
        height=height,
        channels=channels,
        bits=_same(_many(tags, _BITS) or (1,), "bits a sample"),
        sample_format=_same(_many(tags, _SAMPLE_FORMAT) or (_UNSIGNED,), "sample formats"),
        compression=compression,
        photometric=_photometric(tags, channels, compression),
        planes=planes,
        tiled=tiled,
        block_width=block_width,
        block_height=block_height,
        offsets=offsets,
        sizes=sizes,
    )


def _same(values: Sequence[int], what: str) -> int:
    if len(set(values)) > 1:
        shown = ", ".join(map(str, values[:5]))
        raise UnreadableFileError(f"is a TIFF file whose channels differ in their {what} ({shown}), which is not read")
    return int(values[0])


def _photometric(tags: dict[int, Any], channels: int, compression: int) -> int:
    if _PHOTOMETRIC in tags:
        return _whole_number(tags, _PHOTOMETRIC, 0)
    if channels >= 3:
        return _RGB
    return _WHITE_IS_ZERO if compression in (2, 3, 4) else _BLACK_IS_ZERO


def _mode(layout: _Layout) -> str:
    if layout.photometric in _MODES:
        return _MODES[layout.photometric]
    alpha = "A" if _alpha(layout) else ""
    if layout.photometric == _RGB:
        return "RGB" + alpha
    if alpha or layout.bits == 8:
        return "L" + alpha
    if layout.bits == 1:
        return "1"
    return "F" if layout.sample_format == _FLOAT else "I;16" if layout.bits == 16 else "I"


def _damaged(what: str) -> str:
    return f"is a TIFF file that cannot be read: {what}"


# From samples to colours


def _interpreted(file: BinaryIO, layout: _Layout) -> Pillow.Image:
    """The picture of a page whose samples can be had as they are."""
    colours = _COLOURS.get(layout.photometric)
    if colours is None:
        raise UnreadableFileError(
            f"is a TIFF file of the photometric interpretation {layout.photometric}, which cannot be read"
        )
    if layout.channels < colours:
        raise UnreadableFileError(_damaged(f"{layout.channels} channels where its colours need {colours}"))
    if layout.photometric == _YCBCR and _subsampling(layout) != (1, 1):
        return rgb(_from_ycbcr(_subsampled(file, layout), layout))
    samples = _samples(file, layout)
    colour = samples[..., :colours]
    if layout.photometric == _PALETTE:
        return rgb(_from_palette(colour[..., 0], layout), _alpha_of(samples, layout))
    if layout.photometric == _YCBCR:
        return rgb(_from_ycbcr(colour, layout))
    if layout.photometric == _CIELAB:
        return _from_lab(colour, layout)
    low, high = _range(colour, layout)
    eight = scaled(colour, low, high)
    if layout.photometric == _CMYK:
        if _whole_number(layout.tags, _INK_SET, 1) != 1:
            raise UnreadableFileError("is a TIFF file of inks that are not cyan, magenta, yellow and black")
        return Pillow.fromarray(np.ascontiguousarray(eight), mode="CMYK").convert("RGB")
    if layout.photometric == _WHITE_IS_ZERO:
        eight = 255 - eight
    alpha = _alpha(layout)
    return rgb(
        eight[..., 0] if colours == 1 else eight,
        _alpha_of(samples, layout),
        premultiplied=alpha is not None and alpha[1] == _ASSOCIATED,
    )


def _range(values: Samples, layout: _Layout) -> tuple[float, float]:
    """The black and the white value: as stated, unless values contradict the statement, else as is likely."""
    if layout.sample_format in (_UNSIGNED, _UNDEFINED) and layout.bits not in (16, 24, 32, 64):
        default: tuple[float, float] = (0, 2**layout.bits - 1)
    else:
        default = likely_range(values)
    for minimum, maximum in ((_SMIN, _SMAX), (_MIN, _MAX)):
        lows, highs = (
            [float(value) for value in _many(layout.tags, tag) if math.isfinite(value)] for tag in (minimum, maximum)
        )
        if not lows and not highs:
            continue
        smallest, greatest = extent(values)
        low = min(lows) if lows else min(0, smallest)
        high = max(highs) if highs else default[1]
        if low <= smallest and greatest <= high and low < high:
            return low, high
    return default


def _alpha(layout: _Layout) -> tuple[int, int] | None:
    """The channel of the alpha and its kind, if the page has one."""
    colours = _COLOURS.get(layout.photometric, layout.channels)
    if layout.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE):
        return None
    extras = _many(layout.tags, _EXTRA_SAMPLES)
    if layout.photometric == _RGB and layout.channels == 4 and extras in ((), (999,)):
        # Without a word on the fourth channel every reader takes it for an alpha; 999 is an old CorelDRAW.
        return 3, _UNASSOCIATED
    for place, kind in enumerate(extras):
        if kind in (_ASSOCIATED, _UNASSOCIATED) and colours + place < layout.channels:
            return colours + place, kind
    return None


def _alpha_of(samples: Samples, layout: _Layout) -> Image | None:
    alpha = _alpha(layout)
    if alpha is None:
        return None
    values = samples[..., alpha[0]]
    if layout.sample_format == _FLOAT:
        return scaled(values, 0, 1)
    if layout.sample_format == _SIGNED:
        return scaled(values, 0, 2 ** (layout.bits - 1) - 1)
    if layout.bits == 16:
        return scaled(values, *likely_range(values))
    return scaled(values, 0, 2**layout.bits - 1)


def _from_palette(indices: Samples, layout: _Layout) -> Image:
    entries = 2**layout.bits
    colours = np.array(_many(layout.tags, _COLOUR_MAP), dtype=np.uint16)
    if layout.sample_format not in (_UNSIGNED, _UNDEFINED) or len(colours) != 3 * entries:
        raise UnreadableFileError(_damaged("its palette does not fit its samples"))
    # Old writers filled the palette with values of 8 bits.
    eight = scaled(colours, 0, 255 if colours.max(initial=0) < 256 else 65535)
    palette = eight.reshape(3, entries).T
    return np.take(palette, indices.astype(np.intp), axis=0)


def _from_lab(values: Samples, layout: _Layout) -> Pillow.Image:
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


def _subsampling(layout: _Layout) -> tuple[int, int]:
    across, down = (int(value) for value in (*_many(layout.tags, _YCBCR_SUBSAMPLING), 2, 2)[:2])
    if layout.planes > 1 and _YCBCR_SUBSAMPLING not in layout.tags:
        return 1, 1
    return across, down


def _subsampled(file: BinaryIO, layout: _Layout) -> Samples:
    """(height, width, 3) of YCbCr whose colours are stored once for a block of pixels."""
    across, down = _subsampling(layout)
    fits = across in (1, 2, 4) and down in (1, 2, 4) and layout.block_height % down in (0, layout.height % down)
    if layout.bits != 8 or layout.planes > 1 or layout.channels != 3 or not fits or _predictor(layout) != 1:
        raise UnreadableFileError("is a TIFF file of subsampled YCbCr colours in a layout that cannot be read")
    units, unit_bytes = -(-layout.block_width // across), across * down + 2
    blocks = _blocks(file, layout, units * unit_bytes, -(-layout.block_height // down), -(-layout.height // down))
    rows, columns = len(blocks), layout.across * units
    data = blocks.reshape(rows, columns, unit_bytes)
    corners = data[..., :-2].reshape(rows, columns, down, across)
    luma = corners.transpose(0, 2, 1, 3).reshape(rows * down, columns * across)
    chroma = data[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
    return np.dstack([luma, chroma])[: layout.height, : layout.width]


def _from_ycbcr(values: Samples, layout: _Layout) -> Image:
    if layout.bits != 8 or layout.sample_format not in (_UNSIGNED, _UNDEFINED):
        raise UnreadableFileError(f"is a TIFF file of YCbCr colours of {layout.bits} bits, which cannot be read")
    stated = _many(layout.tags, _YCBCR_COEFFICIENTS)
    red, green, blue = (float(value) for value in (stated if len(stated) == 3 else (0.299, 0.587, 0.114)))
    stated = _many(layout.tags, _REFERENCE_BLACK_WHITE)
    limits = [float(value) for value in (stated if len(stated) == 6 else (0, 255, 128, 255, 128, 255))]
    if not green or limits[0] == limits[1] or limits[2] == limits[3] or limits[4] == limits[5]:
        raise UnreadableFileError(_damaged("its colours are stated in a way that makes no sense"))
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


# From the file to samples


def _samples(file: BinaryIO, layout: _Layout) -> Samples:
    """(height, width, channels) as they are stored: unsigned, signed or floating point, in native byte order."""
    if layout.sample_format not in (_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED):
        raise UnreadableFileError("is a TIFF file of complex numbers, which are no picture")
    if layout.bits > 64 or (layout.sample_format == _FLOAT and layout.bits not in (16, 32, 64)):
        raise UnreadableFileError(f"is a TIFF file of samples of {layout.bits} bits, which cannot be read")
    if layout.bits > 32 and layout.bits != 64:
        raise UnreadableFileError(f"is a TIFF file of samples of {layout.bits} bits, which cannot be read")
    in_block = layout.channels if layout.planes == 1 else 1
    row_bytes = -(-layout.block_width * in_block * layout.bits // 8)
    each = len(layout.offsets) // layout.planes
    planes = []
    for plane in range(layout.planes):
        blocks = _blocks(file, layout, row_bytes, layout.block_height, layout.height, slice(plane * each, None))
        values = _values(blocks.reshape(-1, layout.across, row_bytes), layout, in_block)
        planes.append(values[: layout.height, : layout.width])
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def _values(raw: Image, layout: _Layout, channels: int) -> Samples:
    """(rows, pixels, channels) from (rows, blocks, bytes of a row of a block)."""
    rows, across, _ = raw.shape
    predictor = _predictor(layout)
    shape = (rows, across, layout.block_width, channels)
    if layout.bits not in (8, 16, 32, 64):
        if predictor != 1:
            raise UnreadableFileError(f"is a TIFF file of predictor {predictor} over {layout.bits} bits")
        return _unpacked(raw, layout, channels).reshape(rows, -1, channels)
    size = layout.bits // 8
    kind = {_SIGNED: "i", _FLOAT: "f"}.get(layout.sample_format, "u")
    if predictor == 3 and kind == "f":
        summed = raw.reshape(rows, across, -1, channels).cumsum(axis=2, dtype=np.uint8)
        spread = summed.reshape(rows, across, size, -1)
        values = np.ascontiguousarray(spread.swapaxes(2, 3)).view(f">f{size}").reshape(shape)
    else:
        values = np.ascontiguousarray(raw).view(f"{layout.order}u{size}").reshape(shape)
        if predictor == 2:
            values = values.astype(f"=u{size}").cumsum(axis=2, dtype=f"=u{size}")
        elif predictor != 1:
            raise UnreadableFileError(f"is a TIFF file of predictor {predictor}, which cannot be read")
        values = values.astype(f"=u{size}", copy=False).view(f"={kind}{size}")
    return values.astype(f"={kind}{size}", copy=False).reshape(rows, -1, channels)


def _unpacked(raw: Image, layout: _Layout, channels: int) -> Samples:
    """Samples of a number of bits that is no whole number of bytes, the highest bit first."""
    rows, across, row_bytes = raw.shape
    count = layout.block_width * channels
    dtype = np.uint8 if layout.bits < 8 else np.uint16 if layout.bits < 16 else np.uint32
    weights = (1 << np.arange(layout.bits)[::-1]).astype(dtype)
    values = np.empty((rows, across, count), dtype=dtype)
    step = max(1, _CHUNK_BITS // (across * row_bytes * 8))
    for start in range(0, rows, step):
        bits = np.unpackbits(raw[start : start + step], axis=2)[..., : count * layout.bits]
        bits = bits.reshape(*bits.shape[:2], count, layout.bits)
        values[start : start + step] = np.einsum("rbni,i->rbn", bits, weights, dtype=dtype, casting="unsafe")
    if layout.sample_format == _SIGNED:
        return np.where(values >> (layout.bits - 1), values.astype(np.int64) - 2**layout.bits, values).astype(np.int32)
    return values


def _predictor(layout: _Layout) -> int:
    return _whole_number(layout.tags, _PREDICTOR, 1) if layout.compression != _RAW else 1


def _blocks(
    file: BinaryIO, layout: _Layout, row_bytes: int, block_rows: int, rows: int, part: slice = slice(None)
) -> Image:
    """The bytes of the blocks of a plane side by side: (rows or more, blocks across * row_bytes)."""
    across, down = layout.across, layout.down
    offsets, sizes = layout.offsets[part][: across * down], layout.sizes[part][: across * down]
    if len(offsets) < across * down:
        raise UnreadableFileError(_damaged(f"{len(offsets)} of {across * down} blocks of picture data"))
    stored = _read(file, offsets, sizes)
    if layout.compression != _RAW:
        return _decompressed(layout, stored, row_bytes, block_rows, rows)
    heights = (
        [block_rows] * len(stored) if layout.tiled else [min(block_rows, rows - block_rows * n) for n in range(down)]
    )
    parts = [block[: height * row_bytes] for block, height in zip(stored, heights, strict=True)]
    if any(len(part) < height * row_bytes for part, height in zip(parts, heights, strict=True)):
        raise UnreadableFileError("is truncated: the TIFF data ends too early")
    data = np.frombuffer(b"".join(parts), dtype=np.uint8)
    if _whole_number(layout.tags, _FILL_ORDER, 1) == 2:
        data = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little"))[data]
    if layout.tiled:
        return data.reshape(down, across, block_rows, row_bytes).swapaxes(1, 2).reshape(-1, across * row_bytes)
    return data.reshape(rows, row_bytes)


def _read(file: BinaryIO, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
    found = []
    for offset, size in zip(offsets, sizes, strict=True):
        file.seek(offset)
        found.append(file.read(size))
    return found


def _decompressed(layout: _Layout, stored: list[bytes], row_bytes: int, block_rows: int, rows: int) -> Image:
    """The bytes of compressed blocks, by way of a TIFF file of grey pixels of 8 bits that holds the same blocks."""
    width, height = layout.across * row_bytes, layout.down * block_rows if layout.tiled else rows
    picture = _open(_file(layout, stored, width, height, row_bytes, block_rows, bits=8, channels=1, photometric=1))
    picture.load()
    return np.asarray(picture)


def _decoded(file: BinaryIO, layout: _Layout, offset: int) -> Pillow.Image:
    """The picture of a page whose compression knows of pixels, as Pillow decodes it."""
    if layout.bits not in (1, 8) or layout.sample_format not in (_UNSIGNED, _UNDEFINED):
        raise UnreadableFileError(f"is a TIFF file of JPEG data of {layout.bits} bits, which cannot be read")
    if layout.compression == _OLD_JPEG:
        # Its tables lie anywhere in the file, which therefore is kept whole and told to begin with this page.
        file.seek(0)
        content = bytearray(file.read())
        _, big = _order(bytes(content[:4]))
        struct.pack_into(layout.order + ("Q" if big else "L"), content, 8 if big else 4, offset)
        picture = _open(BytesIO(content))
        picture.load()
        return opaque_rgb(picture)
    stored = _read(file, layout.offsets, layout.sizes)
    picture = _open(
        _file(
            layout,
            stored,
            layout.width,
            layout.height,
            layout.block_width,
            layout.block_height,
            bits=layout.bits,
            channels=layout.channels,
            photometric=layout.photometric,
            copied=(_PLANAR, _T4_OPTIONS, _T6_OPTIONS, _COLOUR_MAP, _EXTRA_SAMPLES, _JPEG_TABLES, _YCBCR_SUBSAMPLING),
        )
    )
    picture.load()
    if picture.mode not in ("L", "RGB") or (layout.photometric == _YCBCR):
        return opaque_rgb(picture)
    values = np.asarray(picture)
    if layout.photometric == _WHITE_IS_ZERO:
        # Pillow has turned the values round, and the stated range with them.
        values = 255 - values
    eight = scaled(values, *_range(values, layout))
    return rgb(255 - eight if layout.photometric == _WHITE_IS_ZERO else eight)


def _open(file: BytesIO) -> Any:
    return TiffImageFile(file, "")


def _file(
    layout: _Layout,
    stored: list[bytes],
    width: int,
    height: int,
    block_width: int,
    block_height: int,
    *,
    bits: int,
    channels: int,
    photometric: int,
    copied: Sequence[int] = (),
) -> BytesIO:
    """A TIFF file of one page that holds these blocks as they are."""
    offsets, place = [], 8
    for block in stored:
        offsets.append(place)
        place += len(block)
    if place > 2**32 - 2**20:
        raise UnreadableFileError("is a TIFF file of a page of more than 4 GB, which cannot be read")
    sizes = [len(block) for block in stored]
    tags: dict[int, Sequence[int] | bytes] = {
        _WIDTH: [width],
        _HEIGHT: [height],
        _BITS: [bits] * channels,
        _COMPRESSION: [layout.compression],
        _PHOTOMETRIC: [photometric],
        _FILL_ORDER: [_whole_number(layout.tags, _FILL_ORDER, 1)],
        _CHANNELS: [channels],
    }
    if layout.tiled:
        tags |= {_TILE_WIDTH: [block_width], _TILE_HEIGHT: [block_height], _TILE_OFFSETS: offsets, _TILE_BYTES: sizes}
    else:
        tags |= {_STRIP_OFFSETS: offsets, _ROWS_PER_STRIP: [block_height], _STRIP_BYTES: sizes}
    for tag in copied:
        if tag in layout.tags:
            value = layout.tags[tag]
            tags[tag] = value if isinstance(value, bytes) else [int(number) for number in _many(layout.tags, tag)]
    directory_place = place + place % 2
    extra_place = directory_place + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, value in sorted(tags.items()):
        # Numbers are LONGs, which every reader accepts for a SHORT, but for the palette and the bits of a sample.
        short = tag in (_BITS, _COLOUR_MAP, _EXTRA_SAMPLES, _YCBCR_SUBSAMPLING, _PHOTOMETRIC, _COMPRESSION)
        kind, data = (
            (7, value)
            if isinstance(value, bytes)
            else (3 if short else 4, struct.pack(f"<{len(value)}{'H' if short else 'L'}", *value))
        )
        where = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<L", extra_place + len(extra))
        if len(data) > 4:
            extra += data + b"\0" * (len(data) % 2)
        entries += struct.pack("<HHL", tag, kind, len(value)) + where
    parts = [b"II*\0", struct.pack("<L", directory_place), *stored, b"\0" * (place % 2)]
    parts += [struct.pack("<H", len(tags)), entries, b"\0" * 4, extra]
    return BytesIO(b"".join(parts))
