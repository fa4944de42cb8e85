"""Every member of the Netpbm family, written byte by byte here, comes out as it must be seen or is refused."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.reading import Decoded, decode

HEIGHT, WIDTH = 12, 37
MAXIMA = [1, 2, 3, 7, 15, 100, 254, 255, 256, 1000, 1023, 4095, 16383, 65534, 65535]


def decoded(content: bytes, max_pixels: int = 1_000_000) -> Decoded:
    return decode(io.BytesIO(content), suffix=".pnm", max_pixels=max_pixels)


def read(content: bytes) -> NDArray[np.int64]:
    return decoded(content).pixels().astype(int)


def refused(content: bytes, max_pixels: int = 1_000_000) -> str:
    with pytest.raises(UnreadableFileError) as caught:
        decoded(content, max_pixels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ramp(channels: int, high: float) -> NDArray[np.float64]:
    shares = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    return np.stack([shares, shares[::-1], shares[:, ::-1], 1 - shares], axis=2)[..., :channels] * high


def whole(channels: int, high: int) -> NDArray[np.int64]:
    return np.rint(ramp(channels, high)).astype(int)


def binary(values: NDArray[Any], high: int) -> bytes:
    return values.astype(np.uint8 if high < 256 else ">u2").tobytes()


def plain(values: NDArray[Any]) -> bytes:
    return b"\n".join(b" ".join(b"%d" % value for value in row) for row in values.reshape(HEIGHT, -1))


def seen(values: NDArray[Any], high: float) -> NDArray[np.float64]:
    return np.broadcast_to(255 * values / high, (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("high", MAXIMA)
@pytest.mark.parametrize(("channels", "kinds"), [(1, (b"P5", b"P2")), (3, (b"P6", b"P3"))])
def test_grey_and_colour_of_every_maximum_are_seen_over_their_whole_range(channels, kinds, high):
    # A picture that is dark stays so: the file has stated what is white.
    for share in (1, 0.1):
        values = np.rint(ramp(channels, high * share)).astype(int)
        for kind, body in zip(kinds, (binary(values, high), plain(values)), strict=True):
            image = read(b"%s\n# a comment\n%d %d\n%d\n" % (kind, WIDTH, HEIGHT, high) + body)
            np.testing.assert_allclose(image, seen(values, high), atol=2)


def test_bits_are_black_where_they_are_set():
    bits = whole(1, 1)
    for content in (
        b"P4 %d %d\n" % (WIDTH, HEIGHT) + np.packbits(bits[..., 0].astype(np.uint8), axis=1).tobytes(),
        b"P1 %d %d\n" % (WIDTH, HEIGHT) + plain(bits),
        b"P1\n%d %d\n" % (WIDTH, HEIGHT) + b"".join(b"%d" % bit for bit in bits.ravel()),
        b"P1\n%d\n#0 1 0\n%d\n" % (WIDTH, HEIGHT) + b"# 1 1\n" + plain(bits),
    ):
        np.testing.assert_array_equal(read(content), np.repeat(255 * (1 - bits), 3, axis=2))


@pytest.mark.parametrize("high", [1, 15, 255, 4095, 65535])
@pytest.mark.parametrize(
    ("kind", "channels"),
    [
        ("GRAYSCALE", 1),
        ("RGB", 3),
        ("GRAYSCALE_ALPHA", 2),
        ("RGB_ALPHA", 4),
        ("BLACKANDWHITE", 1),
        ("BLACKANDWHITE_ALPHA", 2),
        ("", 1),
        ("", 3),
    ],
)
def test_pam_of_every_kind_and_maximum_is_seen_over_its_whole_range_on_white(kind, channels, high):
    values = whole(channels, high)
    header = f"P7\n# made by a test\nWIDTH {WIDTH}\nHEIGHT {HEIGHT}\nDEPTH {channels}\nMAXVAL {high}\n"
    header += f"TUPLTYPE {kind}\nENDHDR\n" if kind else "ENDHDR\n"
    shares = values / high
    if channels in (2, 4):
        shares = shares[..., :-1] * shares[..., -1:] + 1 - shares[..., -1:]
    np.testing.assert_allclose(read(header.encode() + binary(values, high)), seen(shares, 1), atol=2)


@pytest.mark.parametrize("low_high", [(0.0, 1.0), (0.0, 0.3), (-2.0, 7.0), (0.0, 40_000.0)])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "channels"), [(b"Pf", 1), (b"PF", 3)])
def test_floats_are_seen_from_0_to_1_or_from_their_smallest_to_their_greatest_value(magic, channels, order, low_high):
    low, high = low_high
    values = low + ramp(channels, high - low)
    scale = b"-1.0" if order == "<" else b"1.0"
    content = b"%s\n%d %d\n%s\n" % (magic, WIDTH, HEIGHT, scale) + values[::-1].astype(f"{order}f4").tobytes()
    black, white = (0, 1) if low >= 0 and high <= 1 else (low, high)
    np.testing.assert_allclose(read(content), seen(values - black, white - black), atol=2)


def test_values_above_the_maximum_are_white():
    assert read(b"P2 2 1 100\n50 999")[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"P5 4 4 0\n" + bytes(16), "is a PNM file of the greatest value 0; 1 to 65535 are allowed"),
        (b"P5 4 4 65536\n" + bytes(32), "is a PNM file of the greatest value 65536; 1 to 65535 are allowed"),
        (b"P5 4 4 255\n" + bytes(15), "is truncated: the PNM data ends too early"),
        (b"P6 4 4 999\n" + bytes(48), "is truncated: the PNM data ends too early"),
        (b"P4 9 4\n" + bytes(7), "is truncated: the PNM data ends too early"),
        (b"P2 4 4 255\n1 2 3", "is truncated: the PNM data ends too early"),
        (b"P1 4 4\n0101", "is truncated: the PNM data ends too early"),
        (b"P2 2 1 255\n1 x", "is a PNM file that cannot be read: a value is no number"),
        (b"P5 4", "is truncated: the PNM data ends too early"),
        (b"P5 4 four 255\n", "is a PNM file that cannot be read: its header is damaged"),
        (b"P5 0 4 255\n", "is a PNM file that cannot be read: it has no pixels"),
        (b"Pf 2 2 0\n" + bytes(16), "is a PFM file that cannot be read: its scale is no number"),
        (b"P7\nWIDTH 2\nHEIGHT 2\n", "is truncated: the PNM data ends too early"),
        (b"P7\nWIDTH 2\nHEIGHT 2\nENDHDR\n", "is a PAM file that cannot be read: its header is damaged"),
        (
            b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 5\nMAXVAL 255\nTUPLTYPE SPECTRUM\nENDHDR\n" + bytes(20),
            "is a PAM file of 5 channels of the type 'SPECTRUM', which is no picture",
        ),
    ],
)
def test_what_cannot_be_read_right_is_refused_with_a_sentence(content, sentence):
    assert refused(content) == sentence


def test_the_limit_of_pixels_is_looked_at_before_the_picture():
    assert refused(b"P5 100000 100000 255\n", 10**6).startswith("decodes to 10000 megapixels; the limit is 1")


@pytest.mark.parametrize(
    "one", [b"P5 2 2 255\n" + bytes(4), b"P4 9 2\n" + bytes(4), b"P6 1 1 999\n" + bytes(6)], ids=["P5", "P4", "P6"]
)
def test_the_pictures_of_a_stream_are_counted(one):
    assert [decoded(one * count).pictures for count in (1, 2, 5)] == [1, 2, 5]
    assert decoded(one + b"some text").pictures == 1
