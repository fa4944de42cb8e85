"""Files that other programs write: what tifffile writes is seen, planes that share a directory are pages each."""

import io
import logging
import struct
import warnings
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.reading import Decoded, decode, decode_pages

LIMIT = 1_000_000
HEIGHT, WIDTH = 21, 37
METAMORPH = [(33628, 4, 1, 8, True), (33629, 5, 4, [0] * 8, True)]


def written(data: NDArray[Any], **how: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, data, **{"metadata": None, **how})
    return file.getvalue()


def pages(content: bytes) -> list[Decoded | UnreadableFileError]:
    return list(decode_pages(io.BytesIO(content), suffix=".tif", max_pixels=LIMIT))


def seen(content: bytes) -> list[int | str]:
    """The upper left pixel of each page, or the reason for which it cannot be read."""
    return [
        str(page) if isinstance(page, UnreadableFileError) else int(page.pixels()[0, 0, 1]) for page in pages(content)
    ]


def ramp(channels: int, dtype: str) -> NDArray[Any]:
    """(height, width, channels) from 0 to the greatest value of the type, or to 1."""
    shares = np.linspace(0, 1, HEIGHT * WIDTH * channels).reshape(HEIGHT, WIDTH, channels)
    return (shares if dtype.startswith("f") else shares * np.iinfo(dtype).max).astype(dtype)


def stack(planes: int) -> NDArray[np.uint8]:
    return np.arange(10, 10 + planes, dtype=np.uint8)[:, None, None].repeat(HEIGHT, axis=1).repeat(WIDTH, axis=2)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("shape", [{"rowsperstrip": 4}, {"rowsperstrip": HEIGHT}, {"tile": (16, 32)}])
@pytest.mark.parametrize(
    ("compression", "predictor"),
    [(None, None), ("lzw", None), ("lzw", True), ("zlib", True), ("zstd", True), ("lzma", True), ("packbits", None)],
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_grey_and_colours_that_tifffile_writes_are_seen(dtype, compression, predictor, shape, order):
    for channels, planar in ((1, "contig"), (3, "contig"), (3, "separate")):
        values = ramp(channels, dtype)
        expected = values / (1 if dtype == "f4" else np.iinfo(dtype).max) * 255
        data = values[..., 0] if channels == 1 else np.moveaxis(values, 2, 0) if planar == "separate" else values
        content = written(
            data,
            photometric="minisblack" if channels == 1 else "rgb",
            planarconfig=planar if channels == 3 else None,
            compression=compression,
            predictor=predictor,
            byteorder=order,
            bigtiff=channels == 3,
            **shape,
        )
        (page,) = pages(content)
        assert isinstance(page, Decoded)
        np.testing.assert_allclose(page.pixels(), np.broadcast_to(expected, (HEIGHT, WIDTH, 3)), atol=1, err_msg=planar)


@pytest.mark.parametrize("shape", [{"rowsperstrip": 16}, {"tile": (16, 16)}])
@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_jpeg_that_tifffile_writes_is_seen(photometric, subsampling, shape):
    flat = np.full((32, 48, 3), (200, 80, 40), dtype=np.uint8)
    grey = photometric == "minisblack"
    how = {} if grey else {"subsampling": subsampling}
    content = written(flat[..., 0] if grey else flat, photometric=photometric, compression="jpeg", **how, **shape)
    (page,) = pages(content)
    assert isinstance(page, Decoded)
    assert page.mode == ("L" if grey else "YCbCr")
    np.testing.assert_allclose(page.pixels().astype(int), flat[..., [0, 0, 0]] if grey else flat, atol=2)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "how",
    [
        {"description": "ImageJ=1.53t\nimages=4\nslices=4\nloop=false\n"},
        {"description": "ImageJ=1.53t\nimages=4\nchannels=2\nslices=2\nhyperstack=true\n"},
        {"metadata": {}},
        {"extratags": METAMORPH},
    ],
    ids=["ImageJ", "ImageJ hyperstack", "tifffile", "MetaMorph"],
)
def test_each_plane_of_a_stack_in_one_directory_is_a_page(how, order):
    content = written(stack(4), photometric="minisblack", truncate=True, byteorder=order, rowsperstrip=5, **how)
    assert len(tifffile.TiffFile(io.BytesIO(content)).pages) == 1
    assert seen(content) == [10, 11, 12, 13]
    assert decode(io.BytesIO(content), suffix=".tif", max_pixels=LIMIT, page=2).pixels()[-1, -1].tolist() == [12] * 3
    with pytest.raises(UnreadableFileError, match=r"^has no page 5$"):
        decode(io.BytesIO(content), suffix=".tif", max_pixels=LIMIT, page=4)


@pytest.mark.parametrize("how", [{"imagej": True}, {"metadata": {}}, {"ome": True, "metadata": {}}])
def test_each_plane_of_a_stack_in_directories_of_their_own_is_a_page_once(how):
    assert seen(written(stack(3), photometric="minisblack", **how)) == [10, 11, 12]


def test_a_plane_that_the_file_is_too_short_for_is_a_page_that_cannot_be_read():
    content = written(stack(4), photometric="minisblack", truncate=True, description="ImageJ=1.53t\nimages=4\n")
    assert seen(content[: -HEIGHT * WIDTH - 5]) == [10, 11, "is truncated: the TIFF data ends too early"]


@pytest.mark.parametrize("stated", ["0", "-3", "many", "1.5", ""])
def test_a_stack_that_states_no_number_of_planes_is_one_page(stated):
    description = f"ImageJ=1.53t\nimages={stated}\n"
    assert seen(written(stack(2), photometric="minisblack", truncate=True, description=description)) == [10]


def test_a_compressed_page_is_one_page_whatever_its_description_says():
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    content = written(noise, photometric="minisblack", compression="zlib", description="ImageJ=1\nimages=9\n")
    assert len(content) > noise.size
    assert seen(content) == [noise[0, 0]]


def test_a_volume_is_refused_with_a_sentence():
    content = written(np.zeros((4, 32, 32), np.uint8), photometric="minisblack", volumetric=True, tile=(16, 16, 16))
    assert seen(content) == ["is a TIFF file of a volume of 4 layers: save each of them as a page"]


def chained(count: int, then: int) -> bytes:
    """A file of so many directories without tags, the last of which leads on to the one of this index."""
    content = b"II*\0" + struct.pack("<L", 8)
    for number in range(1, count + 1):
        content += struct.pack("<HL", 0, 8 + 6 * (then if number == count else number))
    return content


@pytest.mark.parametrize("then", [0, 1, 149, 199])
def test_a_circle_of_many_directories_ends(then):
    assert len(seen(chained(200, then))) == 200


@pytest.mark.parametrize("compression", [None, "zlib", "packbits", "lzw", "zstd", "lzma"])
def test_a_last_strip_that_is_filled_up_is_read(compression):
    # A whole strip is written for the last one too, and the height is changed afterwards.
    data = np.arange(20 * WIDTH, dtype=np.uint16).reshape(20, WIDTH) % 256 * 257
    content = bytearray(written(data, photometric="minisblack", compression=compression, rowsperstrip=10))
    length = tifffile.TiffFile(io.BytesIO(content)).pages[0].tags["ImageLength"]
    struct.pack_into("<H", content, length.valueoffset, 13)
    (page,) = pages(bytes(content))
    assert isinstance(page, Decoded)
    np.testing.assert_array_equal(page.pixels()[..., 1], data[:13] // 257)


@pytest.mark.parametrize(
    "content",
    [
        b"II*\0" + struct.pack("<L", 8) + b"\xff" * 40,
        b"II*\0" + struct.pack("<L", 999) + bytes(40),
        chained(3, 0),
        written(stack(1)[0], photometric="minisblack", description="ImageJ=1\nimages=9")[:-60],
        written(stack(1)[0], photometric="minisblack", compression="zlib")[:-60],
        written(np.zeros((HEIGHT, WIDTH), np.uint8), photometric="minisblack", extratags=METAMORPH),
        written(ramp(1, "f4")[..., 0].view(np.uint32) | 0x7F800001, photometric="minisblack"),
    ],
)
def test_nothing_but_a_sentence_comes_of_a_damaged_file(content, caplog, capfd):
    caplog.set_level(logging.DEBUG, logger="")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = pages(content)
        except UnreadableFileError as error:
            found = [error]
    assert all("\n" not in str(page) for page in found if isinstance(page, UnreadableFileError))
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_numbers_that_are_none_are_black_and_no_warning():
    bits = np.full((HEIGHT, WIDTH), 0x7FA00000, dtype=np.uint32)
    bits[0, 0] = np.float32(1).view(np.uint32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seen(written(bits.view(np.float32), photometric="minisblack")) == [255]


def test_a_tag_of_the_wrong_type_is_told_in_a_sentence():
    content = bytearray(written(stack(1)[0], photometric="minisblack"))
    width = tifffile.TiffFile(io.BytesIO(content)).pages[0].tags["ImageWidth"]
    struct.pack_into("<H", content, width.offset + 2, 2)
    assert seen(bytes(content)) == ["is a TIFF file that cannot be read: its tags contradict each other"]
