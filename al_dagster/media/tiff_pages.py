"""The pages of a TIFF file and the samples of each as they are stored, by way of tifffile."""

import logging
import math
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from imagecodecs import packints_decode
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC, SAMPLEFORMAT, TIFF, TiffFile, TiffPage

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.pixels import require_size

Samples = NDArray[Any]

_NOT_PREDICTED = (COMPRESSION.NONE, 2, 3, 4, COMPRESSION.OJPEG, COMPRESSION.JPEG)
"""Uncompressed, fax and JPEG."""
_COMPRESSIONS = frozenset({*_NOT_PREDICTED, 5, 8, 32946, 32773, 34925, 50000})
"""And LZW, Deflate, PackBits, LZMA and Zstandard."""
_REDUCED, _MASK = 1, 4
_WHOLE = (8, 16, 32, 64)
_MOST_BITS = 8 * 64
"""Of a pixel: twice those of RGB with alpha in numbers of 64 bits. The limit of pixels is one of memory with it."""
_CUT = "is truncated: the TIFF data ends too early"
_CONTRADICTION = "is a TIFF file that cannot be read: its tags contradict each other"
_WHOLE_NUMBERS = set(TIFF.TAG_ATTRIBUTES.values()) - {
    *("description", "software", "subifds", "extrasamples", "jpegtables", "subsampling")
}

# What tifffile says of damages is said in sentences here.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
for _bits in set(range(2, 32)).difference(_WHOLE):
    TIFF.SAMPLE_DTYPES.setdefault((SAMPLEFORMAT.INT, _bits), TIFF.SAMPLE_DTYPES[SAMPLEFORMAT.UINT, _bits])


class Place(NamedTuple):
    """Where a page is: its directory, and which of the planes that share this directory."""

    offset: int
    plane: int = 0


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
        raise UnreadableFileError(_CUT)
    found = False
    for offset in offsets:
        planes = 1
        try:
            page = _directory(tiff, offset)
            if page.subfiletype & (_REDUCED | _MASK) or page.photometric == PHOTOMETRIC.MASK:
                continue
            if len(offsets) == 1:
                planes = _planes(tiff, page)
        except UnreadableFileError:
            pass
        found = True
        yield from (Place(offset, plane) for plane in range(planes))
    if not found:
        if _directory(tiff, offsets[0]).subifds is not None:
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


def open_page(file: BinaryIO, place: Place, max_pixels: int) -> TiffPage:
    """A page of which it is known that it can be decoded within the limit of pixels.

    Raises:
        UnreadableFileError: it is larger than ``max_pixels``, of a kind that is not read, or damaged.
    """
    page = _directory(_open(file), place.offset)
    width, height, channels, bits = page.imagewidth, page.imagelength, page.samplesperpixel, page.bitspersample
    if width < 1 or height < 1:
        raise UnreadableFileError(damaged("no size"))
    require_size(width, height, max_pixels)
    block_height, block_width = block = _block(page)
    if min(*block, channels) < 1:
        raise UnreadableFileError(_CONTRADICTION)
    across, down = -(-width // block_width), -(-height // block_height)
    require_size(across * block_width, down * block_height, 4 * max_pixels)
    if page.imagedepth != 1 or page.tiledepth != 1:
        raise UnreadableFileError(
            f"is a TIFF file of a volume of {page.imagedepth} layers: save each of them as a page"
        )
    if isinstance(bits, tuple):
        shown = ", ".join(map(str, bits[:5]))
        raise UnreadableFileError(f"is a TIFF file whose channels differ in their bits a sample ({shown})")
    if channels * bits > _MOST_BITS:
        raise UnreadableFileError(f"is a TIFF file of {channels} channels of {bits} bits, which is no picture")
    if page.compression not in _COMPRESSIONS:
        raise UnreadableFileError(f"is a TIFF file of compression {page.compression}, which cannot be read")
    if "PhotometricInterpretation" not in page.tags:
        fax = page.compression in (2, 3, 4)
        page.photometric = PHOTOMETRIC.RGB if channels >= 3 else PHOTOMETRIC(0 if fax else 1)
    if page.compression in _NOT_PREDICTED:
        page.predictor = 1
    if page.compression != COMPRESSION.OJPEG:
        _find_blocks(page, place.plane, across * down * (channels if page.planarconfig == 2 else 1))
    return page


def samples_of(page: TiffPage) -> Samples:
    """(height, width, channels) as they are stored: unsigned, signed or floating point, in native byte order.

    YCbCr in JPEG comes as RGB.
    """
    kind, bits, predictor = page.sampleformat, page.bitspersample, page.predictor
    if kind not in (SAMPLEFORMAT.UINT, SAMPLEFORMAT.INT, SAMPLEFORMAT.IEEEFP, SAMPLEFORMAT.VOID):
        raise UnreadableFileError("is a TIFF file of complex numbers, which are no picture")
    if page.compression == COMPRESSION.JPEG and (bits != 8 or kind == SAMPLEFORMAT.IEEEFP):
        raise UnreadableFileError(f"is a TIFF file of JPEG data of {bits} bits, which cannot be read")
    if page.dtype is None or (kind == SAMPLEFORMAT.IEEEFP and bits == 24):
        raise UnreadableFileError(f"is a TIFF file of samples of {bits} bits, which cannot be read")
    if predictor not in (1, 2, 3) or (predictor == 3 and kind != SAMPLEFORMAT.IEEEFP):
        raise UnreadableFileError(f"is a TIFF file of predictor {predictor}, which cannot be read")
    if predictor != 1 and bits not in _WHOLE:
        raise UnreadableFileError(f"is a TIFF file of predictor {predictor} over {bits} bits")
    try:
        values = _decoded(page)
    except Exception as error:
        if sum(numbers(page, "TileByteCounts") or numbers(page, "StripByteCounts")) > sum(page.databytecounts):
            raise UnreadableFileError(_CUT) from error
        raise
    values = np.moveaxis(values[:, 0], 0, 2).reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
    if values.dtype == np.bool_:
        return values.view(np.uint8)
    if bits == 24 and page.parent.byteorder == ">" and packints_decode(b"\0\0\1", ">u4", 24)[0] != 1:
        # Some versions of imagecodecs turn these round.
        values = values.byteswap()
    if kind == SAMPLEFORMAT.INT and bits not in _WHOLE:
        return np.where(values >> (bits - 1), values.astype(np.int64) - 2**bits, values).astype(np.int32)
    return values


def subsampled(page: TiffPage) -> Samples:
    """(height, width, 3) of YCbCr whose colours are stored once for a block of pixels, which tifffile does not read."""
    (across, down), (block_height, block_width) = subsampling_of(page), _block(page)
    fits = across in (1, 2, 4) and down in (1, 2, 4) and block_height % down in (0, page.imagelength % down)
    if (
        page.bitspersample != 8
        or page.planarconfig == 2
        or page.samplesperpixel != 3
        or not fits
        or page.predictor != 1
    ):
        raise UnreadableFileError("is a TIFF file of subsampled YCbCr colours in a layout that cannot be read")
    units, unit_bytes = -(-block_width // across), across * down + 2
    values = np.empty((page.imagelength, page.imagewidth, 3), dtype=np.uint8)
    for number, (offset, size) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        row, column = divmod(number, -(-page.imagewidth // block_width))
        top, left = row * block_height, column * block_width
        place = values[top : top + block_height, left : left + block_width]
        rows = -(-(block_height if page.is_tiled else len(place)) // down)
        page.parent.filehandle.seek(offset)
        data: Any = page.parent.filehandle.read(size)
        if page.compression != COMPRESSION.NONE:
            data = TIFF.DECOMPRESSORS[page.compression](data, out=rows * units * unit_bytes)
        block = np.frombuffer(data, np.uint8, rows * units * unit_bytes).reshape(rows, units, unit_bytes)
        luma = block[..., :-2].reshape(rows, units, down, across).swapaxes(1, 2).reshape(rows * down, units * across)
        chroma = block[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
        place[:] = np.dstack([luma, chroma])[: place.shape[0], : place.shape[1]]
    return values


def subsampling_of(page: TiffPage) -> tuple[int, int]:
    """How many pixels across and down share their colours, in YCbCr."""
    if page.photometric != PHOTOMETRIC.YCBCR or page.compression == COMPRESSION.JPEG:
        return 1, 1
    if page.subsampling is None:
        page.subsampling = (1, 1) if page.planarconfig == 2 else (2, 2)
    return page.subsampling


def numbers(page: TiffPage, tag: str) -> tuple[Any, ...]:
    """All values of a tag, none where it is missing."""
    value = page.tags.valueof(tag)
    if value is None:
        return ()
    values = list(value) if isinstance(value, bytes) else np.ravel(value).tolist()
    if "RATIONAL" in page.tags[tag].dtype_name:
        return tuple(
            above / below if below else math.nan for above, below in zip(values[::2], values[1::2], strict=True)
        )
    return tuple(values)


def exif_of(page: TiffPage) -> dict[int, Any]:
    """The tags of the page's EXIF directory; empty where it has none or one that cannot be read."""
    found = page.tags.valueof("ExifTag")
    # As of any other format: a damaged EXIF block takes nothing from the picture.
    tags = found if isinstance(found, dict) else {}
    return {code: tags[name] for code, name in TIFF.EXIF_TAGS.items() if name in tags}


def damaged(what: str) -> str:
    """The reason for which a damaged page cannot be read."""
    return f"is a TIFF file that cannot be read: {what}"


def _open(file: BinaryIO) -> TiffFile:
    file.seek(0)
    try:
        # What makers of microscopes changed in the format is left to their programs.
        return TiffFile(file, is_lsm=False, is_ndpi=False, is_scanimage=False, _multifile=False)
    except (TypeError, ValueError, IndexError) as error:
        raise UnreadableFileError(_CONTRADICTION) from error


def _directories(tiff: TiffFile) -> Iterator[int]:
    """Where the directories begin; one beyond the end of the file is the last, and a circle ends.

    The pages of tifffile leave out such a one, and its circles of more than a hundred do not end.
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


def _directory(tiff: TiffFile, offset: int) -> TiffPage:
    if offset >= tiff.filehandle.size:
        raise UnreadableFileError(_CUT)
    tiff.filehandle.seek(offset)
    try:
        page = TiffPage(tiff, 0)
    except Exception as error:
        # tifffile has no one error for a damaged directory.
        raise UnreadableFileError(_CONTRADICTION) from error
    if not all(isinstance(getattr(page, name), int) for name in _WHOLE_NUMBERS):
        raise UnreadableFileError(_CONTRADICTION)
    return page


def _planes(tiff: TiffFile, page: TiffPage) -> int:
    """How many pictures of the page's size the file says to lie one after the other where the page's own does."""
    stated: Any = 1
    try:
        if page.is_imagej:
            stated = (tiff.imagej_metadata or {}).get("images")
        elif page.is_shaped:
            stated = math.prod((tiff.shaped_metadata or ({},))[0].get("shape", ())) // page.size
        elif page.is_stk:
            stated = page.tags["UIC2tag"].count
    except Exception:
        # Of a description that makes no sense, only the picture counts.
        stated = 1
    if not isinstance(stated, int) or not page.is_final or not page.nbytes:
        return 1
    room = tiff.filehandle.size - page.dataoffsets[0]
    return max(1, min(stated, -(-room // page.nbytes)))


def _block(page: TiffPage) -> tuple[int, int]:
    """Height and width of a tile or of a strip, which is as wide as the page."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.imagelength, page.rowsperstrip), page.imagewidth


def _find_blocks(page: TiffPage, plane: int, blocks: int) -> None:
    """Check and complete where the strips or tiles of a page lie, and move them on to those of the plane."""
    offsets, sizes, end = page.dataoffsets, page.databytecounts, page.parent.filehandle.size
    if not offsets:
        raise UnreadableFileError(damaged("it holds no picture data"))
    if len(offsets) < blocks:
        raise UnreadableFileError(damaged(f"{len(offsets)} of {blocks} blocks of picture data"))
    if len(sizes) < blocks or (blocks == 1 and not sizes[0]):
        sizes = (end,) * blocks
    page.dataoffsets = tuple(offset + plane * page.nbytes for offset in offsets[:blocks])
    page.databytecounts = tuple(
        min(size, end - offset) for offset, size in zip(page.dataoffsets, sizes[:blocks], strict=True)
    )
    if min(page.databytecounts) <= 0:
        raise UnreadableFileError(_CUT)
    if blocks > 1 and sum(page.databytecounts) > 2 * end:
        raise UnreadableFileError(damaged("its strips are larger than the file"))


def _decoded(page: TiffPage) -> Samples:
    """(planes, 1, height, width, values of a pixel in a plane)."""
    try:
        return page.asarray(squeeze=False, maxworkers=1, buffersize=2**24)
    except Exception:
        rows = page.rowsperstrip
        if page.is_tiled or page.imagelength % rows == 0:
            raise
        # Some writers fill the last strip up, which tifffile takes for damaged.
        whole = _directory(page.parent, page.offset)
        whole.dataoffsets, whole.databytecounts = page.dataoffsets, page.databytecounts
        whole.predictor = page.predictor
        whole.imagelength += -whole.imagelength % rows
        whole.shaped = (*whole.shaped[:2], whole.imagelength, *whole.shaped[3:])
        return whole.asarray(squeeze=False, maxworkers=1, buffersize=2**24)[:, :, : page.imagelength]
