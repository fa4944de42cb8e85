"""Every colour type and depth of PNG, written by pypng, comes out as it must be seen."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import png
import pytest
from numpy.typing import NDArray

from al_dagster.media.reading import decode

HEIGHT, WIDTH = 12, 37
DEPTHS = {"grey": (1, 2, 4, 8, 16), "grey+alpha": (8, 16), "rgb": (8, 16), "rgb+alpha": (8, 16)}
KINDS = [(kind, depth) for kind, depths in DEPTHS.items() for depth in depths]
CHANNELS = {"grey": 1, "grey+alpha": 2, "rgb": 3, "rgb+alpha": 4}


def read(content: bytes) -> NDArray[np.int64]:
    return decode(io.BytesIO(content), suffix=".png", max_pixels=1_000_000).pixels().astype(int)


def written(values: NDArray[Any], depth: int, **options: Any) -> bytes:
    """A PNG of (height, width, channels)."""
    height, width, channels = values.shape
    buffer = io.BytesIO()
    writer = png.Writer(
        width,
        height,
        greyscale=channels < 3,
        alpha=channels in (2, 4),
        bitdepth=depth,
        **({"compression": 1} | options),
    )
    rows = values.reshape(height, -1).tolist()
    writer.write_array(buffer, [value for row in rows for value in row]) if options.get("interlace") else writer.write(
        buffer, rows
    )
    return buffer.getvalue()


def with_chunk(content: bytes, kind: bytes, data: bytes) -> bytes:
    """The PNG with one more chunk after its header."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content[:33] + chunk + content[33:]


def ramp(channels: int, high: int) -> NDArray[np.int64]:
    shares = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    several = np.stack([shares, shares[::-1], shares[:, ::-1], 1 - shares], axis=2)
    return np.rint(several[..., :channels] * high).astype(int)


def seen(values: NDArray[np.int64], high: int) -> NDArray[np.float64]:
    """The colours over their whole range, laid on white."""
    channels = values.shape[2]
    shares = values / high
    if channels in (1, 3):
        return np.broadcast_to(255 * shares, (*values.shape[:2], 3))
    colour, alpha = shares[..., :-1], shares[..., -1:]
    return np.broadcast_to(255 * (colour * alpha + 1 - alpha), (*values.shape[:2], 3))


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_every_colour_type_and_depth_is_seen_over_its_whole_range(kind, depth, interlace):
    values = ramp(CHANNELS[kind], 2**depth - 1)
    np.testing.assert_allclose(read(written(values, depth, interlace=interlace)), seen(values, 2**depth - 1), atol=2)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_of_every_depth_gives_its_colours_and_lays_transparent_ones_on_white(depth):
    entries = 2**depth
    colours = np.random.default_rng(0).integers(0, 256, (entries, 3))
    alpha = np.where(np.arange(entries) % 2, 255, 0)
    values = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 31 % entries
    buffer = io.BytesIO()
    palette = [(*colour, level) for colour, level in zip(colours.tolist(), alpha.tolist(), strict=True)]
    png.Writer(WIDTH, HEIGHT, palette=palette, bitdepth=depth).write(buffer, values.tolist())
    expected = np.where(alpha[:, None] > 0, colours, 255)[values]
    np.testing.assert_array_equal(read(buffer.getvalue()), expected)


@pytest.mark.parametrize("place", [0, 20, -1])
@pytest.mark.parametrize(("kind", "depth"), [pair for pair in KINDS if pair[0] in ("grey", "rgb")])
def test_the_transparent_colour_becomes_white_and_no_other(kind, depth, place):
    values = ramp(CHANNELS[kind], 2**depth - 1)
    key = values.reshape(-1, CHANNELS[kind])[place]
    content = written(values, depth, transparent=key.tolist() if kind == "rgb" else int(key[0]))
    expected = np.where((values == key).all(axis=2, keepdims=True), 255, seen(values, 2**depth - 1))
    np.testing.assert_allclose(read(content), expected, atol=2)


@pytest.mark.parametrize("kind", ["grey", "grey+alpha", "rgb", "rgb+alpha"])
@pytest.mark.parametrize("needed", [8, 10, 12, 14, 16])
def test_16_bits_without_a_stated_depth_are_as_deep_as_their_colours_need(kind, needed):
    channels = CHANNELS[kind]
    values = ramp(channels, 2**needed - 1)
    if channels in (2, 4):
        values[..., -1] = 65535
    image = read(written(values, 16))
    colours = values[..., : channels - (channels in (2, 4))]
    np.testing.assert_allclose(image, np.broadcast_to(255 * colours / (2**needed - 1), image.shape), atol=2)


@pytest.mark.parametrize("kind", ["grey", "grey+alpha", "rgb", "rgb+alpha"])
@pytest.mark.parametrize(("depth", "significant"), [(16, 9), (16, 10), (16, 12), (16, 14), (8, 4), (8, 5)])
@pytest.mark.parametrize("share", [1.0, 0.05])
def test_samples_that_fill_their_range_as_the_standard_wants_it_are_seen_as_they_are(kind, depth, significant, share):
    channels = CHANNELS[kind]
    rest = depth - significant
    coarse = ramp(channels, round((2**significant - 1) * share))
    values = coarse << rest | coarse >> (significant - rest) if rest <= significant else coarse << rest
    if channels in (2, 4):
        values[..., -1] = 2**depth - 1
    content = with_chunk(written(values, depth), b"sBIT", bytes([significant] * channels))
    np.testing.assert_allclose(read(content), seen(values, 2**depth - 1), atol=2)


@pytest.mark.parametrize("kind", ["grey", "grey+alpha", "rgb", "rgb+alpha"])
@pytest.mark.parametrize(("depth", "significant"), [(16, 9), (16, 10), (16, 12), (16, 14), (8, 4), (8, 5)])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_samples_left_at_the_lower_end_are_seen_over_their_significant_bits(kind, depth, significant, share):
    channels = CHANNELS[kind]
    values = ramp(channels, round((2**significant - 1) * share))
    expected = np.broadcast_to(
        255 * values[..., : channels - (channels in (2, 4))] / (2**significant - 1), (HEIGHT, WIDTH, 3)
    )
    if channels in (2, 4):
        values[..., -1] = 2**depth - 1
    content = with_chunk(written(values, depth), b"sBIT", bytes([significant] * channels))
    np.testing.assert_allclose(read(content), expected, atol=2)


@pytest.mark.parametrize("significant", [0, 16, 99])
def test_16_significant_bits_are_the_whole_range_and_impossible_numbers_are_passed_over(significant):
    values = ramp(1, 4095)
    image = read(with_chunk(written(values, 16), b"sBIT", bytes([significant])))
    np.testing.assert_allclose(image[..., :1], 255 * values / (65535 if significant == 16 else 4095), atol=2)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_stated_gamma_changes_nothing(depth):
    values = ramp(3, 2**depth - 1)
    content = with_chunk(written(values, depth), b"gAMA", struct.pack(">I", 100_000))
    np.testing.assert_allclose(read(content), seen(values, 2**depth - 1), atol=2)
