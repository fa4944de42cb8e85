"""The pages of a TIFF file and the samples of each as they are stored, by way of tifffile."""

import logging
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.pixels import require_size

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

Samples = NDArray[Any]

RAW, OLD_JPEG, JPEG = 1, 6, 7

_PREFIXES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FAX = (2, 3, 4)
_COMPRESSIONS = frozenset({RAW, *_FAX, 5, OLD_JPEG, JPEG, 8, 32946, 32773, 34925, 50000})
"""Uncompressed, fax, LZW, JPEG, Deflate, PackBits, LZMA and Zstandard."""
_REDUCED, _MASK = 1, 4
_MOST_BITS = 8 * 64
"""Of a pixel: twice those of RGB with alpha in numbers of 64 bits. The limit of pixels is one of memory with it."""
_RATIONAL = (5, 10)
_BUFFER = 2**24
"""Bytes that are read at a time."""


class Tag(IntEnum):
    """The tags that are looked at beyond those that tifffile knows as attributes."""

    PHOTOMETRIC = 262
    ORIENTATION = 274
    MIN = 280
    MAX = 281
    COLOUR_MAP = 320
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SMIN = 340
    SMAX = 341
    YCBCR_COEFFICIENTS = 529
    REFERENCE_BLACK_WHITE = 532
    PLANES_OF_METAMORPH = 33629
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


class Place(NamedTuple):
    """Where a page is: its directory, and which of the planes that share this directory."""

    offset: int
    plane: int = 0


@dataclass(frozen=True)
class Layout:
    """A page of which it is known that it can be decoded within the limit of pixels.

    Attributes:
        page: as tifffile knows it.
        width: pixels, as the height.
        block_width: of a strip, which is as wide as the page, or a tile; pixels.
        block_height: of it; pixels.
        channels: values of a pixel.
        bits: of a value.
        planes: 1, or one of each channel.
        cut: some of its data would lie beyond the end of the file.
    """

    page: "TiffPage"
    width: int
    height: int
    block_width: int
    block_height: int
    channels: int
    bits: int
    sample_format: int
    compression: int
    photometric: int
    planes: int
    cut: bool

    def numbers(self, tag: int) -> tuple[Any, ...]:
        """All values of a tag, none where it is missing."""
        return _numbers(self.page, tag)


def is_tiff(prefix: bytes) -> bool:
    """Whether a file that begins so is a TIFF or a BigTIFF."""
    return prefix[:4] in _PREFIXES


def page_places(file: BinaryIO) -> Iterator[Place]:
    """Where the pages of an open TIFF are, in their order.

    Reduced pictures (previews, pyramid levels) and masks are no pages. A directory that is damaged or lies beyond the
    end of the file is a page that cannot be read. Planes that share the only directory of a file are a page each.

    Raises:
        UnreadableFileError: it has no page.
    """
    tiff = _open(file)
    offsets = list(_directories(tiff))
    if not offsets:
        raise UnreadableFileError("is truncated: the TIFF data ends too early")
    found = False
    for offset in offsets:
        try:
            page = _page(tiff, offset)
        except UnreadableFileError:
            found = True
            yield Place(offset)
            continue
        if page.subfiletype & (_REDUCED | _MASK) or page.photometric == Photometric.TRANSPARENCY_MASK:
            continue
        found = True
        yield from (Place(offset, plane) for plane in range(_planes(tiff, page) if len(offsets) == 1 else 1))
    if not found:
        if _page(tiff, offsets[0]).subifds is not None:
            raise UnreadableFileError(
                "holds only a preview where a picture is expected (a camera's raw file?): convert it to TIFF or JPEG"
            )
        yield Place(offsets[0])


def page_place(file: BinaryIO, page: int) -> Place:
    """Where a page is, by its index.

    Raises:
        UnreadableFileError: there is no such page.
    """
    place = next(islice(page_places(file), page, None), None)
    if place is None:
        raise UnreadableFileError(f"has no page {page + 1}")
    return place


def page_layout(file: BinaryIO, place: Place, max_pixels: int) -> Layout:
    """The layout of a page.

    Raises:
        UnreadableFileError: it is larger than ``max_pixels``, of a kind that is not read, or damaged.
    """
    page = _page(_open(file), place.offset)
    width, height, channels, depth = page.imagewidth, page.imagelength, page.samplesperpixel, page.imagedepth
    if width < 1 or height < 1:
        raise UnreadableFileError(damaged("no size"))
    require_size(width, height, max_pixels)
    block_width, block_height = (
        (page.tilewidth, page.tilelength) if page.is_tiled else (width, min(height, page.rowsperstrip))
    )
    if min(block_width, block_height, channels) < 1:
        raise UnreadableFileError(damaged("its tags contradict each other"))
    across, down = -(-width // block_width), -(-height // block_height)
    require_size(across * block_width, down * block_height, 4 * max_pixels)
    if depth != 1 or page.tiledepth != 1:
        raise UnreadableFileError(f"is a TIFF file of a volume of {depth} layers: save each of them as a page")
    bits = page.bitspersample
    if isinstance(bits, tuple):
        shown = ", ".join(map(str, bits[:5]))
        raise UnreadableFileError(f"is a TIFF file whose channels differ in their bits a sample ({shown})")
    if channels * bits > _MOST_BITS:
        raise UnreadableFileError(f"is a TIFF file of {channels} channels of {bits} bits, which is no picture")
    compression = int(page.compression)
    if compression not in _COMPRESSIONS:
        raise UnreadableFileError(f"is a TIFF file of compression {compression}, which cannot be read")
    planes = channels if page.planarconfig == 2 else 1
    cut = compression != OLD_JPEG and _place_blocks(page, place.plane, across * down * planes)
    return Layout(
        page=page,
        width=width,
        height=height,
        block_width=block_width,
        block_height=block_height,
        channels=channels,
        bits=bits,
        sample_format=int(page.sampleformat),
        compression=compression,
        photometric=_photometric(page),
        planes=planes,
        cut=cut,
    )


def samples_of(layout: Layout) -> Samples:
    """(height, width, channels) as they are stored: unsigned, signed or floating point, in native byte order.

    YCbCr in JPEG comes as RGB.
    """
    from imagecodecs import packints_decode

    page, bits, sample_format = layout.page, layout.bits, layout.sample_format
    if sample_format not in tuple(SampleFormat):
        raise UnreadableFileError("is a TIFF file of complex numbers, which are no picture")
    if layout.compression == JPEG and (bits != 8 or sample_format == SampleFormat.FLOAT):
        raise UnreadableFileError(f"is a TIFF file of JPEG data of {bits} bits, which cannot be read")
    if page.dtype is None or (sample_format == SampleFormat.FLOAT and bits == 24):
        raise UnreadableFileError(f"is a TIFF file of samples of {bits} bits, which cannot be read")
    if layout.compression in (RAW, JPEG, *_FAX):
        page.predictor = 1
    if page.predictor not in (1, 2, 3) or (page.predictor == 3 and sample_format != SampleFormat.FLOAT):
        raise UnreadableFileError(f"is a TIFF file of predictor {page.predictor}, which cannot be read")
    if page.predictor != 1 and bits not in (8, 16, 32, 64):
        raise UnreadableFileError(f"is a TIFF file of predictor {page.predictor} over {bits} bits")
    try:
        values = _decoded(page)
    except Exception as error:
        if layout.cut:
            raise UnreadableFileError("is truncated: the TIFF data ends too early") from error
        raise
    values = np.moveaxis(values[:, 0], 0, 2).reshape(layout.height, layout.width, layout.channels)
    if values.dtype == np.bool_:
        return values.view(np.uint8)
    if bits == 24 and page.parent.byteorder == ">" and packints_decode(b"\0\0\1", ">u4", 24)[0] != 1:
        # Some versions of imagecodecs turn these round.
        values = values.byteswap()
    if sample_format == SampleFormat.SIGNED and bits not in (8, 16, 32, 64):
        return np.where(values >> (bits - 1), values.astype(np.int64) - 2**bits, values).astype(np.int32)
    return values


def subsampled(layout: Layout) -> Samples:
    """(height, width, 3) of YCbCr whose colours are stored once for a block of pixels, which tifffile does not read."""
    from tifffile import TIFF

    page, (across, down) = layout.page, subsampling_of(layout)
    fits = across in (1, 2, 4) and down in (1, 2, 4) and layout.block_height % down in (0, layout.height % down)
    if layout.bits != 8 or layout.planes > 1 or layout.channels != 3 or not fits or page.predictor != 1:
        raise UnreadableFileError("is a TIFF file of subsampled YCbCr colours in a layout that cannot be read")
    units, unit_bytes = -(-layout.block_width // across), across * down + 2
    values = np.empty((layout.height, layout.width, 3), dtype=np.uint8)
    for number, (offset, size) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        row, column = divmod(number, -(-layout.width // layout.block_width))
        top, left = row * layout.block_height, column * layout.block_width
        rows = -(-(layout.block_height if page.is_tiled else min(layout.block_height, layout.height - top)) // down)
        page.parent.filehandle.seek(offset)
        data: Any = page.parent.filehandle.read(size)
        if layout.compression != RAW:
            data = TIFF.DECOMPRESSORS[layout.compression](data, out=rows * units * unit_bytes)
        block = np.frombuffer(data, np.uint8, rows * units * unit_bytes).reshape(rows, units, unit_bytes)
        luma = block[..., :-2].reshape(rows, units, down, across).swapaxes(1, 2).reshape(rows * down, units * across)
        chroma = block[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
        place = values[top : top + layout.block_height, left : left + layout.block_width]
        place[:] = np.dstack([luma, chroma])[: place.shape[0], : place.shape[1]]
    return values


def subsampling_of(layout: Layout) -> tuple[int, int]:
    """How many pixels across and down share their colours, in YCbCr."""
    if layout.photometric != Photometric.YCBCR or layout.compression == JPEG:
        return 1, 1
    across, down = layout.page.subsampling or ((1, 1) if layout.planes > 1 else (2, 2))
    return across, down


def exif_of(layout: Layout) -> dict[int, Any]:
    """The tags of the page's EXIF directory; empty where it has none or one that cannot be read."""
    from tifffile import TIFF

    found = layout.page.tags.valueof(Tag.EXIF)
    # As of any other format: a damaged EXIF block takes nothing from the picture.
    return {code: found[name] for code, name in TIFF.EXIF_TAGS.items() if name in found} if found else {}


def damaged(what: str) -> str:
    """The reason for which a damaged page cannot be read."""
    return f"is a TIFF file that cannot be read: {what}"


def _open(file: BinaryIO) -> "TiffFile":
    # Here, since it takes a while and few commands read a TIFF.
    from tifffile import TIFF, TiffFile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    for bits in range(2, 32):
        TIFF.SAMPLE_DTYPES.setdefault((SampleFormat.SIGNED, bits), TIFF.SAMPLE_DTYPES[SampleFormat.UNSIGNED, bits])
    file.seek(0)
    # What makers of microscopes changed in the format is left to their programs.
    return TiffFile(file, is_lsm=False, is_ndpi=False, is_scanimage=False, _multifile=False)


def _directories(tiff: "TiffFile") -> Iterator[int]:
    """Where the directories begin; one beyond the end of the file is the last, and a circle ends.

    The pages of tifffile leave out such a one, and circles of more than a hundred do not end.
    """
    file, form = tiff.filehandle, tiff.tiff
    seen: set[int] = set()
    place = form.offsetsize
    while place < file.size:
        file.seek(place)
        data = file.read(form.offsetsize)
        offset = struct.unpack(form.offsetformat, data)[0] if len(data) == form.offsetsize else 0
        if not offset or offset in seen:
            return
        seen.add(offset)
        yield offset
        file.seek(min(offset, file.size))
        data = file.read(form.tagnosize)
        if len(data) < form.tagnosize:
            return
        place = offset + form.tagnosize + struct.unpack(form.tagnoformat, data)[0] * form.tagsize


def _page(tiff: "TiffFile", offset: int) -> "TiffPage":
    from tifffile import TiffPage

    if offset >= tiff.filehandle.size:
        raise UnreadableFileError("is truncated: the TIFF data ends too early")
    tiff.filehandle.seek(offset)
    try:
        return TiffPage(tiff, 0)
    except Exception as error:
        # tifffile has no one error for a damaged directory.
        raise UnreadableFileError(damaged("its tags contradict each other")) from error


def _planes(tiff: "TiffFile", page: "TiffPage") -> int:
    """How many pictures of the page's size the file says to lie one after the other at the page's place."""
    if not page.is_final or not page.nbytes:
        return 1
    stated: Any = 1
    if page.is_imagej:
        stated = (tiff.imagej_metadata or {}).get("images", 1)
    elif page.is_shaped:
        shape = (tiff.shaped_metadata or ({},))[0].get("shape", ())
        stated = math.prod(shape) // page.size
    elif page.is_stk:
        stated = page.tags[Tag.PLANES_OF_METAMORPH].count
    room = tiff.filehandle.size - page.dataoffsets[0]
    return max(1, min(int(stated), -(-room // page.nbytes)))


def _place_blocks(page: "TiffPage", plane: int, blocks: int) -> bool:
    """Check and complete where the strips or tiles of a page lie, and move them on to those of the plane.

    Returns:
        Whether some of them end beyond the end of the file.
    """
    offsets, sizes, end = page.dataoffsets, page.databytecounts, page.parent.filehandle.size
    if not offsets:
        raise UnreadableFileError(damaged("it holds no picture data"))
    if len(offsets) < blocks:
        raise UnreadableFileError(damaged(f"{len(offsets)} of {blocks} blocks of picture data"))
    offsets = tuple(offset + plane * page.nbytes for offset in offsets[:blocks])
    if len(sizes) < blocks or (blocks == 1 and not sizes[0]):
        sizes = (end,) * blocks
    present = tuple(min(size, end - offset) for offset, size in zip(offsets, sizes, strict=False))
    if min(present) <= 0:
        raise UnreadableFileError("is truncated: the TIFF data ends too early")
    if blocks > 1 and sum(present) > 2 * end:
        raise UnreadableFileError(damaged("its strips are larger than the file"))
    page.dataoffsets, page.databytecounts = offsets, present
    return present != tuple(sizes[:blocks])


def _decoded(page: "TiffPage") -> Samples:
    """(planes, 1, height, width, values of a pixel in a plane)."""
    try:
        return page.asarray(squeeze=False, maxworkers=1, buffersize=_BUFFER)
    except Exception:
        rows = page.rowsperstrip
        if page.is_tiled or page.imagelength % rows == 0:
            raise
        # Some writers fill the last strip up, which tifffile takes for damaged.
        whole = _page(page.parent, page.offset)
        whole.dataoffsets, whole.databytecounts = page.dataoffsets, page.databytecounts
        whole.predictor = page.predictor
        whole.imagelength += -whole.imagelength % rows
        whole.shaped = (*whole.shaped[:2], whole.imagelength, *whole.shaped[3:])
        return whole.asarray(squeeze=False, maxworkers=1, buffersize=_BUFFER)[:, :, : page.imagelength]


def _photometric(page: "TiffPage") -> int:
    if Tag.PHOTOMETRIC in page.tags:
        return int(page.photometric)
    if page.samplesperpixel >= 3:
        return Photometric.RGB
    return Photometric.WHITE_IS_ZERO if page.compression in _FAX else Photometric.BLACK_IS_ZERO


def _numbers(page: "TiffPage", tag: int) -> tuple[Any, ...]:
    value = page.tags.valueof(tag)
    if value is None:
        return ()
    values = list(value) if isinstance(value, bytes) else np.ravel(value).tolist()
    if page.tags[tag].dtype in _RATIONAL:
        return tuple(
            above / below if below else math.nan for above, below in zip(values[::2], values[1::2], strict=True)
        )
    return tuple(values)
