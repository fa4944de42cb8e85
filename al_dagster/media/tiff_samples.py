"""The samples of a TIFF page as they are stored, whatever their depth, compression and order."""

import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.TiffImagePlugin import TiffImageFile

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.pixels import Image
from al_dagster.media.tiff_layout import (
    FAR,
    OLD_JPEG,
    RAW,
    Layout,
    SampleFormat,
    Tag,
    byte_order,
    damaged,
    many,
    predictor_of,
    subsampling_of,
    whole_number,
)

Samples = NDArray[Any]

_OF_COMPRESSION = (
    Tag.PLANAR,
    Tag.T4_OPTIONS,
    Tag.T6_OPTIONS,
    Tag.PREDICTOR,
    Tag.COLOUR_MAP,
    Tag.EXTRA_SAMPLES,
    Tag.JPEG_TABLES,
    Tag.YCBCR_SUBSAMPLING,
)

_CHUNK_BITS = 2**26


def samples_of(file: BinaryIO, layout: Layout) -> Samples:
    """(height, width, channels) as they are stored: unsigned, signed or floating point, in native byte order."""
    if layout.sample_format not in (
        SampleFormat.UNSIGNED,
        SampleFormat.SIGNED,
        SampleFormat.FLOAT,
        SampleFormat.UNDEFINED,
    ):
        raise UnreadableFileError("is a TIFF file of complex numbers, which are no picture")
    if layout.bits > 64 or (layout.sample_format == SampleFormat.FLOAT and layout.bits not in (16, 32, 64)):
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


def subsampled(file: BinaryIO, layout: Layout) -> Samples:
    """(height, width, 3) of YCbCr whose colours are stored once for a block of pixels."""
    across, down = subsampling_of(layout)
    fits = across in (1, 2, 4) and down in (1, 2, 4) and layout.block_height % down in (0, layout.height % down)
    if layout.bits != 8 or layout.planes > 1 or layout.channels != 3 or not fits or predictor_of(layout) != 1:
        raise UnreadableFileError("is a TIFF file of subsampled YCbCr colours in a layout that cannot be read")
    units, unit_bytes = -(-layout.block_width // across), across * down + 2
    blocks = _blocks(file, layout, units * unit_bytes, -(-layout.block_height // down), -(-layout.height // down))
    rows, columns = len(blocks), layout.across * units
    data = blocks.reshape(rows, columns, unit_bytes)
    corners = data[..., :-2].reshape(rows, columns, down, across)
    luma = corners.transpose(0, 2, 1, 3).reshape(rows * down, columns * across)
    chroma = data[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
    return np.dstack([luma, chroma])[: layout.height, : layout.width]


def encoded_picture(file: BinaryIO, layout: Layout, offset: int) -> Pillow.Image:
    """The picture of a page whose compression knows of pixels, loaded, as Pillow decodes it.

    Args:
        file: open for binary reading.
        layout: of the page.
        offset: where the page begins.
    """
    if layout.compression == OLD_JPEG:
        # Its tables lie anywhere in the file, which therefore is kept whole and told to begin with this page.
        file.seek(0)
        content = bytearray(file.read())
        _, big = byte_order(bytes(content[:4]))
        struct.pack_into(layout.order + ("Q" if big else "L"), content, 8 if big else 4, offset)
        picture = _open(BytesIO(content))
        picture.load()
        return picture
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
            copied=_OF_COMPRESSION,
        )
    )
    picture.load()
    return picture


def _values(raw: Image, layout: Layout, channels: int) -> Samples:
    """(rows, pixels, channels) from (rows, blocks, bytes of a row of a block)."""
    rows, across, _ = raw.shape
    predictor = predictor_of(layout)
    shape = (rows, across, layout.block_width, channels)
    if layout.bits not in (8, 16, 32, 64):
        if predictor != 1:
            raise UnreadableFileError(f"is a TIFF file of predictor {predictor} over {layout.bits} bits")
        return _unpacked(raw, layout, channels).reshape(rows, -1, channels)
    size = layout.bits // 8
    kind = (
        "f"
        if layout.sample_format == SampleFormat.FLOAT
        else "i"
        if layout.sample_format == SampleFormat.SIGNED
        else "u"
    )
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


def _unpacked(raw: Image, layout: Layout, channels: int) -> Samples:
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
    if layout.sample_format == SampleFormat.SIGNED:
        return np.where(values >> (layout.bits - 1), values.astype(np.int64) - 2**layout.bits, values).astype(np.int32)
    return values


def _blocks(
    file: BinaryIO, layout: Layout, row_bytes: int, block_rows: int, rows: int, part: slice = slice(None)
) -> Image:
    """The bytes of the blocks of a plane side by side: (rows or more, blocks across * row_bytes)."""
    across, down = layout.across, layout.down
    offsets, sizes = layout.offsets[part][: across * down], layout.sizes[part][: across * down]
    if len(offsets) < across * down:
        raise UnreadableFileError(damaged(f"{len(offsets)} of {across * down} blocks of picture data"))
    stored = _read(file, offsets, sizes)
    if layout.compression != RAW:
        return _decompressed(layout, stored, row_bytes, block_rows, rows)
    heights = (
        [block_rows] * len(stored) if layout.tiled else [min(block_rows, rows - block_rows * n) for n in range(down)]
    )
    parts = [block[: height * row_bytes] for block, height in zip(stored, heights, strict=True)]
    if any(len(part) < height * row_bytes for part, height in zip(parts, heights, strict=True)):
        raise UnreadableFileError("is truncated: the TIFF data ends too early")
    data = np.frombuffer(b"".join(parts), dtype=np.uint8)
    if whole_number(layout.tags, Tag.FILL_ORDER, 1) == 2:
        data = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little"))[data]
    if layout.tiled:
        return data.reshape(down, across, block_rows, row_bytes).swapaxes(1, 2).reshape(-1, across * row_bytes)
    return data.reshape(rows, row_bytes)


def _read(file: BinaryIO, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
    found = []
    for offset, size in zip(offsets, sizes, strict=True):
        file.seek(min(offset, FAR))
        found.append(file.read(min(size, FAR)))
    return found


def _decompressed(layout: Layout, stored: list[bytes], row_bytes: int, block_rows: int, rows: int) -> Image:
    """The bytes of compressed blocks, by way of a TIFF file of grey pixels of 8 bits that holds the same blocks."""
    width, height = layout.across * row_bytes, layout.down * block_rows if layout.tiled else rows
    picture = _open(_file(layout, stored, width, height, row_bytes, block_rows, bits=8, channels=1, photometric=1))
    picture.load()
    return np.asarray(picture)


def _open(file: BytesIO) -> Any:
    return TiffImageFile(file, "")


def _file(
    layout: Layout,
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
        Tag.WIDTH: [width],
        Tag.HEIGHT: [height],
        Tag.BITS: [bits] * channels,
        Tag.COMPRESSION: [layout.compression],
        Tag.PHOTOMETRIC: [photometric],
        Tag.FILL_ORDER: [whole_number(layout.tags, Tag.FILL_ORDER, 1)],
        Tag.CHANNELS: [channels],
    }
    if layout.tiled:
        tags |= {
            Tag.TILE_WIDTH: [block_width],
            Tag.TILE_HEIGHT: [block_height],
            Tag.TILE_OFFSETS: offsets,
            Tag.TILE_BYTES: sizes,
        }
    else:
        tags |= {Tag.STRIP_OFFSETS: offsets, Tag.ROWS_PER_STRIP: [block_height], Tag.STRIP_BYTES: sizes}
    for tag in copied:
        if tag in layout.tags:
            value = layout.tags[tag]
            tags[tag] = value if isinstance(value, bytes) else [int(number) for number in many(layout.tags, tag)]
    directory_place = place + place % 2
    extra_place = directory_place + 2 + 12 * len(tags) + 4
    entries, extra = b"", b""
    for tag, value in sorted(tags.items()):
        # Numbers are LONGs, which every reader accepts for a SHORT, but for the palette and the bits of a sample.
        short = tag in (
            Tag.BITS,
            Tag.COLOUR_MAP,
            Tag.EXTRA_SAMPLES,
            Tag.YCBCR_SUBSAMPLING,
            Tag.PHOTOMETRIC,
            Tag.COMPRESSION,
        )
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
