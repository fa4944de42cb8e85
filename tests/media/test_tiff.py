"""Every kind of sample that TIFF allows, written byte by byte here, comes out as it must be seen or is refused."""

import io
import itertools
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.reading import decode, decode_pages, read_image

LIMIT = 1_000_000
HEIGHT, WIDTH = 12, 37
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
NONE, DEFLATE, PACKBITS = 1, 8, 32773


@dataclass
class Page:
    """A page to write; ``samples`` are (height, width, channels) of the values themselves."""

    samples: NDArray[Any]
    bits: int
    photometric: int = 1
    kind: int = UNSIGNED
    compression: int = NONE
    planar: int = 1
    tiled: bool = False
    predictor: int = 1
    fill_order: int = 1
    tags: dict[int, tuple[str, Sequence[Any]]] = field(default_factory=dict)


def packed(rows: NDArray[Any], page: Page, order: str) -> bytes:
    """The bytes of (rows, pixels, channels), each row filled up to whole bytes."""
    if page.bits in (8, 16, 32, 64):
        size = page.bits // 8
        kind = {UNSIGNED: "u", SIGNED: "i", FLOAT: "f"}.get(page.kind, "u")
        values = np.ascontiguousarray(rows.astype(f"{kind}{size}"))
        if page.predictor == 2:
            values = values.view(f"u{size}")
            values = np.concatenate([values[:, :1], np.diff(values, axis=1)], axis=1)
        if page.predictor == 3:
            channels = rows.shape[2]
            planes = values.astype(f">f{size}").view(np.uint8).reshape(len(rows), -1, size).swapaxes(1, 2)
            flat = planes.reshape(len(rows), -1, channels)
            return np.concatenate([flat[:, :1], np.diff(flat, axis=1)], axis=1).tobytes()
        return values.astype(values.dtype.newbyteorder(order)).tobytes()
    bits = (rows.astype(np.int64)[..., None] >> np.arange(page.bits)[::-1]) & 1
    return np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def compressed(data: bytes, page: Page) -> bytes:
    if page.compression == DEFLATE:
        data = zlib.compress(data)
    elif page.compression == PACKBITS:
        data = b"".join(bytes([len(data[at : at + 128]) - 1]) + data[at : at + 128] for at in range(0, len(data), 128))
    if page.fill_order == 2:
        data = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)
    return data


def blocks(page: Page, order: str) -> list[bytes]:
    height, width, channels = page.samples.shape
    planes = [page.samples] if page.planar == 1 else [page.samples[..., n : n + 1] for n in range(channels)]
    found = []
    for plane in planes:
        if page.tiled:
            padded = np.pad(plane, ((0, -height % 16), (0, -width % 16), (0, 0)), mode="edge")
            places = itertools.product(range(0, height, 16), range(0, width, 16))
            parts = [padded[y : y + 16, x : x + 16] for y, x in places]
        else:
            parts = [plane[y : y + 5] for y in range(0, height, 5)]
        found += [compressed(packed(part, page, order), page) for part in parts]
    return found


def tiff(pages: Sequence[Page], order: str = "<", big: bool = False, data: Sequence[list[bytes]] = ()) -> bytes:
    """A TIFF file; ``data`` gives the blocks of pages that are not to be made from their samples."""
    pointer, count = ("Q", "Q") if big else ("L", "H")
    mark = b"II" if order == "<" else b"MM"
    content = mark + (struct.pack(order + "HHH", 43, 8, 0) if big else struct.pack(order + "H", 42))
    place_of_next = len(content)
    content += bytes(8 if big else 4)
    for number, page in enumerate(pages):
        height, width, channels = page.samples.shape
        stored = data[number] if data else blocks(page, order)
        offsets = [len(content) + sum(map(len, stored[:at])) for at in range(len(stored))]
        content += b"".join(stored)
        sizes = [len(block) for block in stored]
        tags: dict[int, tuple[str, Sequence[Any]]] = {
            256: ("L", [width]),
            257: ("L", [height]),
            258: ("H", [page.bits] * channels),
            259: ("H", [page.compression]),
            262: ("H", [page.photometric]),
            266: ("H", [page.fill_order]),
            277: ("H", [channels]),
            284: ("H", [page.planar]),
            317: ("H", [page.predictor]),
            339: ("H", [page.kind] * channels),
        }
        if page.tiled:
            tags |= {322: ("H", [16]), 323: ("H", [16]), 324: ("L", offsets), 325: ("L", sizes)}
        else:
            tags |= {273: ("L", offsets), 278: ("H", [5]), 279: ("L", sizes)}
        tags |= page.tags
        kinds = {"B": 1, "H": 3, "L": 4, "R": 5, "b": 6, "h": 8, "l": 9, "f": 11, "d": 12}
        room = 8 if big else 4
        entries = b""
        for tag, (code, values) in sorted(tags.items()):
            form = f"{order}{len(values)}{code}" if code != "R" else f"{order}{2 * len(values)}L"
            numbers = values if code != "R" else [part for value in values for part in (round(value * 10_000), 10_000)]
            raw = struct.pack(form, *numbers)
            if len(raw) > room:
                raw, content = struct.pack(order + pointer, len(content)), content + raw
            entries += struct.pack(order + "HH" + pointer, tag, kinds[code], len(values)) + raw.ljust(room, b"\0")
        directory = struct.pack(order + count, len(tags)) + entries + bytes(8 if big else 4)
        here = len(content)
        content = (
            content[:place_of_next] + struct.pack(order + pointer, here) + content[place_of_next + (8 if big else 4) :]
        )
        content += directory
        place_of_next = len(content) - (8 if big else 4)
    return content


def read(content: bytes, page: int = 0) -> NDArray[np.int64]:
    return decode(io.BytesIO(content), suffix=".tif", max_pixels=LIMIT, page=page).pixels().astype(int)


def page_count(content: bytes) -> int:
    return len(list(decode_pages(io.BytesIO(content), suffix=".tif", max_pixels=LIMIT)))


def refused(content: bytes) -> str:
    with pytest.raises(UnreadableFileError) as caught:
        read(content)
    return str(caught.value)


def ramp(channels: int = 1) -> NDArray[np.float64]:
    """Shares of 0 to 1, both ends among them, another order in every channel."""
    shares = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    return np.stack([shares, shares[::-1], shares[:, ::-1], 1 - shares][:channels], axis=2)


def stored(shares: NDArray[np.float64], low: float, high: float) -> NDArray[Any]:
    """Whole numbers that these shares of a range are nearest to, exact for 64 bits too."""
    steps = [int(low) + (int(high) - int(low)) * int(share * 2**20) // 2**20 for share in shares.ravel()]
    return np.array(steps, dtype=np.int64 if low < 0 else np.uint64).reshape(shares.shape)


def shown(values: NDArray[Any], low: float, high: float) -> NDArray[np.float64]:
    return ((values.astype(np.float64) - low) / (high - low) * 255).clip(0, 255)


LAYOUTS = [
    dict(zip(("compression", "tiled", "fill_order"), chosen, strict=True))
    for chosen in itertools.product((NONE, DEFLATE, PACKBITS), (False, True), (1, 2))
]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 64])
def test_unsigned_grey_of_every_depth_is_seen_over_its_whole_range(bits, photometric, order):
    values = stored(ramp(), 0, 2**bits - 1)
    expected = shown(values, 0, 2**bits - 1)
    expected = 255 - expected if photometric == 0 else expected
    for layout in LAYOUTS:
        image = read(tiff([Page(values, bits, photometric, **layout)], order))
        np.testing.assert_allclose(image, np.repeat(expected, 3, axis=2), atol=2, err_msg=str(layout))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [4, 8, 12, 16, 32, 64])
def test_signed_grey_is_seen_from_its_smallest_to_its_greatest_value(bits, photometric, order):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = stored(ramp(), low, high)
    expected = shown(values, low, high)
    expected = 255 - expected if photometric == 0 else expected
    for layout in LAYOUTS:
        image = read(tiff([Page(values, bits, photometric, SIGNED, **layout)], order))
        np.testing.assert_allclose(image, np.repeat(expected, 3, axis=2), atol=2, err_msg=str(layout))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 5), (0, 60_000)])
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_floating_point_is_seen_from_0_to_1_or_from_its_smallest_to_its_greatest_value(bits, low, high, order):
    values = low + ramp() * (high - low)
    for layout in LAYOUTS:
        image = read(tiff([Page(values, bits, 1, FLOAT, **layout)], order))
        np.testing.assert_allclose(image, np.repeat(shown(values, low, high), 3, axis=2), atol=2, err_msg=str(layout))


def test_floating_point_that_is_dark_stays_dark():
    image = read(tiff([Page(ramp() * 0.25, 32, 1, FLOAT)]))
    np.testing.assert_allclose(image[..., :1], shown(ramp() * 0.25, 0, 1), atol=2)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("bits", "kind", "predictor"),
    [(8, 1, 2), (16, 1, 2), (32, 1, 2), (64, 1, 2), (16, 2, 2), (16, 3, 3), (32, 3, 3), (64, 3, 3), (32, 3, 2)],
)
def test_predictors_are_undone(bits, kind, predictor, order, channels, tiled):
    low, high = {1: (0, 2**bits - 1), 2: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), 3: (0, 1)}[kind]
    shares = ramp(channels)
    values = shares if kind == FLOAT else stored(shares, low, high)
    page = Page(values, bits, 1 if channels == 1 else 2, kind, DEFLATE, tiled=tiled, predictor=predictor)
    if kind == FLOAT and predictor == 2:
        page = Page(values.astype(np.float32).view(np.uint32), bits, page.photometric, 1, DEFLATE, 1, tiled, 2)
        page.tags[339] = ("H", [FLOAT] * channels)
    image = read(tiff([page], order))
    np.testing.assert_allclose(image, np.broadcast_to(shown(values, low, high), image.shape), atol=2)


def test_a_predictor_of_uncompressed_samples_means_nothing():
    values = stored(ramp(), 0, 255)
    image = read(tiff([Page(values, 8, tags={317: ("H", [2])})]))
    np.testing.assert_array_equal(image[..., :1], values)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize(
    ("bits", "kind"), [(2, 1), (4, 1), (8, 1), (10, 1), (12, 1), (16, 1), (32, 1), (64, 1), (16, 2), (32, 3), (64, 3)]
)
def test_colours_of_every_depth_in_one_plane_or_three(bits, kind, planar, order):
    low, high = {1: (0, 2**bits - 1), 2: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), 3: (0, 1)}[kind]
    values = ramp(3) if kind == FLOAT else stored(ramp(3), low, high)
    for layout in LAYOUTS:
        image = read(tiff([Page(values, bits, 2, kind, planar=planar, **layout)], order))
        np.testing.assert_allclose(image, shown(values, low, high), atol=2, err_msg=str(layout))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
def test_16_bits_without_a_stated_maximum_are_as_deep_as_their_values_need(depth, channels):
    values = stored(ramp(channels), 0, 2**depth - 1)
    image = read(tiff([Page(values, 16, 1 if channels == 1 else 2)]))
    np.testing.assert_allclose(image, np.broadcast_to(shown(values, 0, 2**depth - 1), image.shape), atol=2)


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(
    ("bits", "kind", "low", "high", "tags"),
    [
        (16, UNSIGNED, 0, 4095, {281: ("H", [4095])}),
        (16, UNSIGNED, 0, 65535, {281: ("H", [65535])}),
        (16, UNSIGNED, 100, 5000, {280: ("H", [100]), 281: ("H", [5000])}),
        (16, UNSIGNED, 0, 10000, {341: ("H", [10000])}),
        (8, UNSIGNED, 0, 15, {281: ("H", [15])}),
        (8, UNSIGNED, 16, 235, {280: ("H", [16]), 281: ("H", [235])}),
        (12, UNSIGNED, 0, 1000, {281: ("H", [1000])}),
        (32, UNSIGNED, 0, 10**6, {341: ("L", [10**6])}),
        (16, SIGNED, -1000, 3000, {340: ("h", [-1000]), 341: ("h", [3000])}),
        (32, FLOAT, -5.0, 20.0, {340: ("f", [-5.0]), 341: ("f", [20.0])}),
        (64, FLOAT, 0.0, 0.5, {340: ("d", [0.0]), 341: ("d", [0.5])}),
    ],
)
def test_a_stated_range_is_what_is_seen(bits, kind, low, high, tags, photometric):
    # The picture itself uses only the middle of the range.
    shares = 0.2 + 0.6 * ramp()
    values = low + shares * (high - low) if kind == FLOAT else stored(shares, low, high)
    expected = shown(values, low, high)
    image = read(tiff([Page(values, bits, photometric, kind, tags=tags)]))
    np.testing.assert_allclose(image[..., :1], 255 - expected if photometric == 0 else expected, atol=2)


@pytest.mark.parametrize("stated", [0, 1, 200])
def test_a_stated_maximum_that_values_exceed_is_not_believed(stated):
    values = stored(ramp(), 0, 4095)
    image = read(tiff([Page(values, 16, tags={281: ("H", [stated])})]))
    np.testing.assert_allclose(image[..., :1], shown(values, 0, 4095), atol=2)


@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("photometric", [0, 1, 2])
@pytest.mark.parametrize("extra", [0, 1, 2, None])
def test_alpha_is_laid_on_white_and_other_channels_are_left_out(extra, photometric, bits, planar):
    colours = 3 if photometric == 2 else 1
    high = 2**bits - 1
    alpha = ramp(2)[..., 1:]
    shares = ramp(colours)
    opaque = 1 - shares if photometric == 0 else shares
    on_white = opaque * alpha + 1 - alpha
    if extra == 1:
        shares = 1 - opaque * alpha if photometric == 0 else opaque * alpha
    values = stored(np.concatenate([shares, alpha], axis=2), 0, high)
    tags = {} if extra is None else {338: ("H", [extra])}
    if bits == 32:
        tags[341] = ("L", [high] * (colours + 1))
    image = read(tiff([Page(values, bits, photometric, planar=planar, tags=tags)]))
    # Without a word on it a fourth channel is an alpha, a second one is not.
    is_alpha = extra in (1, 2) or (extra is None and colours == 3)
    np.testing.assert_allclose(image, np.broadcast_to(255 * (on_white if is_alpha else opaque), image.shape), atol=2)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("scale", [257, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_palette_of_every_depth_gives_its_colours(bits, scale, order):
    entries = 2**bits
    colours = np.random.default_rng(0).integers(0, 256, (3, entries))
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) * 31 % entries
    for layout in LAYOUTS:
        page = Page(values, bits, 3, tags={320: ("H", (colours * scale).ravel().tolist())}, **layout)
        np.testing.assert_array_equal(read(tiff([page], order)), colours.T[values[..., 0]], err_msg=str(layout))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
def test_inks_become_rgb(bits, planar, order):
    ink = ramp(4) * (1, 1, 1, 0.5)
    values = stored(ink, 0, 2**bits - 1)
    tags = {281: ("H", [2**bits - 1] * 4)}
    image = read(tiff([Page(values, bits, 5, planar=planar, tags=tags)], order))
    np.testing.assert_allclose(image, 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:]), atol=2)


@pytest.mark.parametrize("bits", [8, 16])
def test_cie_lab_becomes_rgb(bits):
    rgb = Image.fromarray((80 + ramp(3) * 100).astype(np.uint8))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB", 5000)
    lab = ImageCms.applyTransform(rgb, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    raw = np.frombuffer(lab.tobytes("raw", "LAB"), np.uint8).reshape(HEIGHT, WIDTH, 3)
    if bits == 16:
        signed = raw[..., 1:].view(np.int8).astype(np.int16) * 256
        raw = np.concatenate([raw[..., :1].astype(np.uint16) * 257, signed.view(np.uint16)], axis=2)
    # Lab of 8 bits is coarser than RGB of 8 bits.
    np.testing.assert_allclose(read(tiff([Page(raw, bits, 8)])), np.asarray(rgb), atol=6)
    assert np.abs(read(tiff([Page(raw, bits, 8)])) - np.asarray(rgb).astype(int)).mean() < 2


def ycbcr(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """By the definition of Rec. 601, over the whole range."""
    luma = rgb @ (0.299, 0.587, 0.114)
    return np.stack([luma, 128 + (rgb[..., 2] - luma) / 1.772, 128 + (rgb[..., 0] - luma) / 1.402], axis=2)


@pytest.mark.parametrize("compression", [NONE, DEFLATE, PACKBITS])
@pytest.mark.parametrize("down", [1, 2, 4])
@pytest.mark.parametrize("across", [1, 2, 4])
def test_subsampled_ycbcr_becomes_rgb(across, down, compression):
    height, width = 10, 38
    # Colours that do not change within a block of 4 pixels, so that nothing is lost.
    cells = np.random.default_rng(1).integers(60, 200, (3, 10, 3))
    rgb = cells.repeat(4, axis=0).repeat(4, axis=1)[:height, :width].astype(float)
    values = np.rint(ycbcr(rgb)).clip(0, 255).astype(np.uint8)
    padded = np.pad(values, ((0, -height % down), (0, -width % across), (0, 0)), mode="edge")
    strips = []
    for top in range(0, height, 8):
        strip = padded[top : top + 8]
        rows, columns = len(strip) // down, strip.shape[1] // across
        luma = strip[..., 0].reshape(rows, down, columns, across).swapaxes(1, 2).reshape(rows, columns, -1)
        strips.append(np.concatenate([luma, strip[::down, ::across, 1:]], axis=2).tobytes())
    page = Page(values, 8, 6, compression=compression)
    page.tags = {278: ("H", [8]), 530: ("H", [across, down])}
    content = tiff([page], data=[[compressed(strip, page) for strip in strips]])
    np.testing.assert_allclose(read(content), rgb, atol=2)


def test_ycbcr_of_the_range_of_video_becomes_rgb():
    rgb = ramp(3) * 255
    values = np.rint(ycbcr(rgb) * (219 / 255, 224 / 255, 224 / 255) + (16, 128 * 31 / 255, 128 * 31 / 255))
    tags = {530: ("H", [1, 1]), 532: ("R", [16, 235, 128, 240, 128, 240])}
    np.testing.assert_allclose(read(tiff([Page(values.clip(0, 255), 8, 6, tags=tags)])), rgb, atol=4)


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (Page(ramp(), 64, 1, 6), "complex numbers"),
        (Page(ramp(), 8, 32803), "the photometric interpretation 32803"),
        (Page(ramp(3), 8, 9), "the photometric interpretation 9"),
        (Page(ramp(3), 8, 32845), "the photometric interpretation 32845"),
        (Page(ramp(), 24, 1, FLOAT), "samples of 24 bits"),
        (Page(ramp(), 48, 1), "samples of 48 bits"),
        (Page(ramp(), 8, 1, tags={277: ("H", [900])}), "900 channels of 8 bits, which is no picture"),
        (Page(ramp(), 8, 3), "its palette does not fit its samples"),
        (Page(ramp(), 8, 2), "1 channels where its colours need 3"),
        (Page(ramp(), 12, 1, compression=DEFLATE, predictor=2), "predictor 2 over 12 bits"),
        (Page(ramp(), 8, 1, compression=DEFLATE, predictor=9), "predictor 9"),
        (Page(ramp(), 8, 1, tags={259: ("H", [34712])}), "compression 34712"),
        (Page(ramp(), 12, 1, tags={259: ("H", [7])}), "JPEG data of 12 bits"),
        (Page(ramp(4), 8, 5, tags={332: ("H", [2])}), "inks that are not cyan"),
        (Page(ramp(3), 16, 6, tags={530: ("H", [1, 1])}), "YCbCr colours of 16 bits"),
        (Page(ramp(3), 8, 2, tags={258: ("H", [5, 6, 5])}), r"bits a sample \(5, 6, 5\)"),
        (Page(ramp(), 8, 1, tags={273: ("L", [8]), 279: ("L", [5])}), "1 of 3 blocks"),
        (Page(ramp(), 8, 1, tags={278: ("H", [0])}), "tags contradict"),
        (Page(ramp(), 8, 1, compression=DEFLATE, tags={279: ("L", [10**6] * 3)}), "strips are larger than the file"),
    ],
)
def test_what_cannot_be_read_right_is_refused_with_a_sentence(page, sentence):
    with pytest.raises(UnreadableFileError, match=sentence) as caught:
        read(tiff([page]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw", "packbits", "tiff_adobe_deflate", "lzma", "zstd"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_compression_that_pillow_writes_is_read(tmp_path, mode, compression):
    smooth = (ramp(3) * 255).astype(np.uint8)
    picture = Image.fromarray(smooth if mode == "RGB" else smooth[..., 0])
    picture.save(tmp_path / "a.tif", compression=compression, **({"quality": 95} if compression == "jpeg" else {}))
    image = read_image(tmp_path / "a.tif", max_pixels=LIMIT).astype(int)
    np.testing.assert_allclose(image, np.asarray(picture.convert("RGB")), atol=25 if compression == "jpeg" else 0)


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4", "packbits", None])
def test_fax_pages_are_black_on_white(tmp_path, compression):
    bits = ramp()[..., 0] > 0.3
    Image.fromarray(bits).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", max_pixels=LIMIT)[..., 1], bits * np.uint8(255))


def test_colours_of_cmyk_and_ycbcr_in_jpeg_are_read(tmp_path):
    ink = Image.new("CMYK", (32, 24), (0, 255, 255, 0))
    ink.save(tmp_path / "a.tif", compression="jpeg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.tif", max_pixels=LIMIT)[5, 5], (255, 0, 0), atol=4)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_jpeg_of_tiff_6_is_read(order):
    rgb = np.full((32, 48, 3), (200, 80, 40), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=95)
    size = len(stream.getvalue())
    old = Page(rgb, 8, 6, compression=6)
    old.tags = {278: ("H", [32]), 512: ("H", [1]), 513: ("L", [8]), 514: ("L", [size]), 530: ("H", [2, 2])}
    content = tiff([old, distinct(1)], order, data=[[stream.getvalue()], blocks(distinct(1), order)])
    np.testing.assert_allclose(read(content), rgb, atol=4)
    assert read(content, 1)[0, 0, 0] == 50


# Pages


def distinct(number: int, height: int = HEIGHT, width: int = WIDTH) -> Page:
    return Page(np.full((height, width, 1), 40 * number + 10), 8)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_each_page_is_read_for_itself(order, big):
    content = tiff([distinct(0), distinct(1, 5, 9), distinct(2, 30, 4)], order, big)
    assert page_count(content) == 3
    assert [read(content, page).shape for page in range(3)] == [(HEIGHT, WIDTH, 3), (5, 9, 3), (30, 4, 3)]
    assert [read(content, page)[0, 0, 0] for page in range(3)] == [10, 50, 90]
    with pytest.raises(UnreadableFileError, match=r"^has no page 4$"):
        read(content, 3)


@pytest.mark.parametrize(
    "tags",
    [
        {254: ("L", [1])},
        {254: ("L", [3])},
        {254: ("L", [4])},
        {254: ("H", [1])},
        {255: ("H", [2])},
        {262: ("H", [4])},
    ],
)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_previews_pyramid_levels_and_masks_are_no_pages(tags, order, big):
    extra = Page(np.zeros((4, 4, 1)), 8, tags=tags)
    content = tiff([extra, distinct(0), extra, distinct(1, 5, 9), extra], order, big)
    assert page_count(content) == 2
    assert [read(content, page)[0, 0, 0] for page in range(2)] == [10, 50]


def test_a_page_that_is_marked_as_one_of_several_is_a_page():
    content = tiff([Page(np.full((4, 4, 1), n), 8, tags={254: ("L", [2]), 255: ("H", [3])}) for n in (1, 2)])
    assert page_count(content) == 2


def test_a_file_that_holds_only_a_reduced_picture_is_read_unless_the_full_one_is_elsewhere():
    reduced = Page(np.full((4, 4, 1), 99), 8, tags={254: ("L", [1])})
    assert read(tiff([reduced]))[0, 0, 0] == 99
    reduced.tags[330] = ("L", [8])
    assert refused(tiff([reduced])).startswith("holds only a preview where a picture is expected")


def test_directories_that_lead_in_a_circle_end():
    content = bytearray(tiff([distinct(0), distinct(1)]))
    first = struct.unpack_from("<L", content, 4)[0]
    content[-4:] = struct.pack("<L", first)
    assert page_count(content) == 2


def test_the_limit_of_pixels_holds_for_each_page(tmp_path):
    content = tiff([distinct(0, 5, 5), distinct(1, 20, 20)])
    assert decode(io.BytesIO(content), suffix=".tif", max_pixels=100).picture.size == (5, 5)
    with pytest.raises(UnreadableFileError, match="megapixels"):
        decode(io.BytesIO(content), suffix=".tif", max_pixels=100, page=1)


def test_a_tile_that_is_far_larger_than_its_picture_is_refused_before_it_is_decoded():
    page = Page(np.zeros((4, 4, 1)), 8, compression=DEFLATE, tiled=True)
    page.tags = {322: ("L", [2**20]), 323: ("L", [2**20])}
    assert "megapixels" in refused(tiff([page], data=[[zlib.compress(bytes(100))]]))


@pytest.mark.parametrize("compression", [NONE, DEFLATE])
def test_a_page_that_ends_too_early_is_not_filled_up(compression):
    page = distinct(0)
    page.compression = compression
    short = [compressed(packed(page.samples[:5], page, "<"), page)] * 2 + [compressed(b"\1" * 20, page)]
    assert refused(tiff([page], data=[short])).startswith(("is truncated", "is a TIFF file that cannot be read"))


def test_the_orientation_of_each_page_is_its_own():
    pages = [distinct(0, 5, 9), distinct(1, 5, 9)]
    pages[1].tags = {274: ("H", [6])}
    content = tiff(pages)
    assert [read(content, page).shape for page in range(2)] == [(5, 9, 3), (9, 5, 3)]


def test_the_pages_of_a_scan_are_the_pictures_that_were_saved(tmp_path: Path):
    drawn = [Image.fromarray(np.full((20 + n, 30, 3), 60 * n, dtype=np.uint8)) for n in range(4)]
    for compression in (None, "jpeg", "tiff_lzw"):
        drawn[0].save(tmp_path / "a.tif", save_all=True, append_images=drawn[1:], compression=compression)
        content = (tmp_path / "a.tif").read_bytes()
        assert page_count(content) == 4
        for number, picture in enumerate(drawn):
            np.testing.assert_allclose(read(content, number), np.asarray(picture).astype(int), atol=2)
