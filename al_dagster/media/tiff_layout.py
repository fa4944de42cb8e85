"""What the directories of a TIFF file say: which pages there are and how the samples of a page lie in the file."""

import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import Any, BinaryIO

from PIL import TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.pixels import require_size

RAW, OLD_JPEG, JPEG = 1, 6, 7
LOSSLESS = frozenset({RAW, 5, 8, 32946, 32773, 34925, 50000})
"""Uncompressed, LZW, Deflate, PackBits, LZMA and Zstandard: what they hold can be asked for as bytes."""
DECODED = frozenset({2, 3, 4, OLD_JPEG, JPEG})
"""Fax and JPEG, which decode to pixels of 1 or 8 bits."""

FAR = 2**62
"""A place beyond the end of every file, which the operating system still accepts as one."""

_REDUCED, _MASK = 1, 4
_MOST_BITS = 8 * 64
"""Of a pixel: twice those of RGB with alpha in numbers of 64 bits. The limit of pixels is one of memory with it."""


class Tag(IntEnum):
    """The tags that are looked at."""

    NEW_SUBFILE_TYPE = 254
    SUBFILE_TYPE = 255
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    CHANNELS = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTES = 279
    MIN = 280
    MAX = 281
    PLANAR = 284
    T4_OPTIONS = 292
    T6_OPTIONS = 293
    PREDICTOR = 317
    COLOUR_MAP = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    SUB_DIRECTORIES = 330
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    SMIN = 340
    SMAX = 341
    JPEG_TABLES = 347
    YCBCR_COEFFICIENTS = 529
    YCBCR_SUBSAMPLING = 530
    REFERENCE_BLACK_WHITE = 532
    EXIF = 34665


class Photometric(IntEnum):
    """What the values of a page mean."""

    WHITE_IS_ZERO = 0
    BLACK_IS_ZERO = 1
    RGB = 2
    PALETTE = 3
    TRANSPARENCY_MASK = 4
    CMYK = 5
    YCBCR = 6
    CIELAB = 8


class SampleFormat(IntEnum):
    """How a value is stored."""

    UNSIGNED = 1
    SIGNED = 2
    FLOAT = 3
    UNDEFINED = 4


def is_tiff(prefix: bytes) -> bool:
    """Whether a file that begins so is a TIFF or a BigTIFF."""
    return prefix[:4] in TiffImagePlugin.PREFIXES


def page_offsets(file: BinaryIO) -> Iterator[int]:
    """Where the pages of an open TIFF begin, in their order, as ``read_page`` takes them.

    Reduced pictures (previews, pyramid levels) and masks are no pages. One that lies beyond the end of the file is a
    page that cannot be read.

    Raises:
        UnreadableFileError: it has no page.
    """
    first: tuple[int, bool] | None = None
    found = False
    for offset, types in _chain(file):
        if first is None:
            first = (offset, Tag.SUB_DIRECTORIES in types)
        reduced = bool(types.get(Tag.NEW_SUBFILE_TYPE, 0) & (_REDUCED | _MASK)) or types.get(Tag.SUBFILE_TYPE) == 2
        if not reduced and types.get(Tag.PHOTOMETRIC) != Photometric.TRANSPARENCY_MASK:
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


def page_offset(file: BinaryIO, page: int) -> int:
    """Where a page begins, by its index.

    Raises:
        UnreadableFileError: there is no such page.
    """
    offset = next(islice(page_offsets(file), page, None), None)
    if offset is None:
        raise UnreadableFileError(f"has no page {page + 1}")
    return offset


def _chain(file: BinaryIO) -> Iterator[tuple[int, dict[int, int]]]:
    """The directories of the file: where each begins, and the values that tell what it is."""
    file.seek(0)
    header = file.read(16)
    order, big = byte_order(header)
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
        if tag > Tag.SUB_DIRECTORIES:
            break
        if tag in (Tag.NEW_SUBFILE_TYPE, Tag.SUBFILE_TYPE, Tag.PHOTOMETRIC, Tag.SUB_DIRECTORIES):
            place = start + (12 if entry == 20 else 8)
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "L"), entries, place)
    return found


def byte_order(header: bytes) -> tuple[str, bool]:
    """Byte order in the notation of ``struct``, and whether offsets are of 64 bits."""
    return "<" if header[:2] == b"II" else ">", 43 in header[2:4]


def read_directory(file: BinaryIO, offset: int) -> dict[int, Any]:
    """The tags of the directory that begins there; those that are damaged are left out."""
    file.seek(0)
    header = file.read(16)
    big = byte_order(header)[1]
    file.seek(min(offset, FAR))
    # Pillow warns of damaged tags and leaves them out; what is missing then is told by a sentence.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow looks for the version of a BigTIFF where it stands in a little-endian one.
        tags = ImageFileDirectory_v2(b"II+\0" + bytes(12) if big else b"II*\0" + bytes(4), prefix=header[:2])
        tags.load(file)
        return dict(tags)


@dataclass(frozen=True)
class Layout:
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
        """Blocks side by side."""
        return -(-self.width // self.block_width)

    @property
    def down(self) -> int:
        """Blocks one below the other."""
        return -(-self.height // self.block_height)


def many(tags: dict[int, Any], tag: int) -> tuple[Any, ...]:
    """All values of a tag, none where it is missing."""
    value = tags.get(tag, ())
    return tuple(value) if isinstance(value, (tuple, list, bytes)) else (value,)


def whole_number(tags: dict[int, Any], tag: int, default: int) -> int:
    """The first value of a tag."""
    values = many(tags, tag)
    return int(values[0]) if values else default


def predictor_of(layout: Layout) -> int:
    """What was done to the samples before they were compressed; 1 is nothing."""
    return whole_number(layout.tags, Tag.PREDICTOR, 1) if layout.compression != RAW else 1


def subsampling_of(layout: Layout) -> tuple[int, int]:
    """How many pixels across and down share their colours, in YCbCr."""
    across, down = (int(value) for value in (*many(layout.tags, Tag.YCBCR_SUBSAMPLING), 2, 2)[:2])
    if layout.planes > 1 and Tag.YCBCR_SUBSAMPLING not in layout.tags:
        return 1, 1
    return across, down


def states_range(layout: Layout) -> bool:
    """Whether the page says anything of its smallest or greatest value."""
    return any(tag in layout.tags for tag in (Tag.SMIN, Tag.SMAX, Tag.MIN, Tag.MAX))


def page_layout(file: BinaryIO, tags: dict[int, Any], max_pixels: int) -> Layout:
    """The layout of the page whose directory has these tags.

    Raises:
        UnreadableFileError: it is larger than ``max_pixels``, or its tags are damaged.
    """
    file.seek(0)
    order, _ = byte_order(file.read(4))
    width, height = (whole_number(tags, tag, 0) for tag in (Tag.WIDTH, Tag.HEIGHT))
    if width < 1 or height < 1:
        raise UnreadableFileError("is truncated: the TIFF data ends too early" if not tags else damaged("no size"))
    require_size(width, height, max_pixels)
    channels = whole_number(tags, Tag.CHANNELS, 1)
    compression = whole_number(tags, Tag.COMPRESSION, RAW)
    planes = channels if whole_number(tags, Tag.PLANAR, 1) == 2 else 1
    tiled = Tag.TILE_WIDTH in tags
    if tiled:
        block_width, block_height = (whole_number(tags, tag, 0) for tag in (Tag.TILE_WIDTH, Tag.TILE_HEIGHT))
    else:
        block_width, block_height = width, min(height, whole_number(tags, Tag.ROWS_PER_STRIP, height))
    if min(block_width, block_height, channels) < 1:
        raise UnreadableFileError(damaged("its tags contradict each other"))
    require_size(-(-width // block_width) * block_width, -(-height // block_height) * block_height, 4 * max_pixels)
    offsets = many(tags, Tag.TILE_OFFSETS if tiled and Tag.TILE_OFFSETS in tags else Tag.STRIP_OFFSETS)
    sizes = many(tags, Tag.TILE_BYTES if tiled and Tag.TILE_BYTES in tags else Tag.STRIP_BYTES)
    if not offsets and compression != OLD_JPEG:
        raise UnreadableFileError(damaged("it holds no picture data"))
    end = file.seek(0, 2)
    if len(sizes) != len(offsets) or (len(sizes) == 1 and not sizes[0]):
        sizes = tuple(max(0, end - offset) for offset in offsets)
    if max(len(offsets), 1) > 1 and sum(sizes) > 2 * end:
        raise UnreadableFileError(damaged("its strips are larger than the file"))
    bits = _same(many(tags, Tag.BITS) or (1,), "bits a sample")
    if channels * bits > _MOST_BITS:
        raise UnreadableFileError(f"is a TIFF file of {channels} channels of {bits} bits, which is no picture")
    return Layout(
        tags=tags,
        order=order,
        width=width,
        height=height,
        channels=channels,
        bits=bits,
        sample_format=_same(many(tags, Tag.SAMPLE_FORMAT) or (SampleFormat.UNSIGNED,), "sample formats"),
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
    if Tag.PHOTOMETRIC in tags:
        return whole_number(tags, Tag.PHOTOMETRIC, 0)
    if channels >= 3:
        return Photometric.RGB
    return Photometric.WHITE_IS_ZERO if compression in (2, 3, 4) else Photometric.BLACK_IS_ZERO


def damaged(what: str) -> str:
    """The reason for which a damaged page cannot be read."""
    return f"is a TIFF file that cannot be read: {what}"
