import errno
import hashlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from structlog.testing import capture_logs

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media import reading
from al_dagster.media.inspection import inspect_file
from al_dagster.media.reading import ImageFile, read_file, read_image

LIMIT = 10_000_000
NO_IMAGE = "is no image of a kind that is read: JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000, AVIF and PNM"


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is of this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def reason(path: Path, max_pixels: int = LIMIT) -> str:
    with pytest.raises(UnreadableFileError) as caught:
        read_image(path, max_pixels=max_pixels)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
        ("a.ppm", {}),
        ("a.jp2", {"irreversible": False}),
    ],
)
def test_lossless_formats_give_exactly_the_drawn_pixels(photo, draw, name, options):
    image = read_image(photo(name, **options), max_pixels=LIMIT)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, draw())


@pytest.mark.parametrize(("name", "most"), [("a.jpg", 12), ("a.webp", 25), ("a.avif", 25)])
def test_lossy_formats_give_nearly_the_drawn_pixels(photo, draw, name, most):
    image = read_image(photo(name, quality=95), max_pixels=LIMIT)
    assert np.abs(image.astype(int) - draw()).mean() < most


def test_an_image_is_read_whatever_its_extension_says(photo, draw, tmp_path):
    path = photo("a.png").rename(tmp_path / "a.mp4")
    np.testing.assert_array_equal(read_image(path, max_pixels=LIMIT), draw())


def test_the_array_cannot_be_written_to(photo):
    assert not read_image(photo("a.png"), max_pixels=LIMIT).flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_every_exif_orientation_is_turned_upright_to_the_pixel(tmp_path, draw, name, orientation):
    upright = draw()
    # What a camera stores so that the viewer's turn gives back the upright picture.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif, **options)
    np.testing.assert_array_equal(read_image(tmp_path / name, max_pixels=LIMIT), upright)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_opencv_turns_an_exif_oriented_jpeg_the_same_way(photo, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = photo("a.jpg", exif=exif, quality=95)
    np.testing.assert_allclose(read_image(path, max_pixels=LIMIT).astype(int), cv2.imread(str(path))[..., ::-1], atol=3)


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_a_picture_with_a_damaged_exif_block_is_read_as_it_lies(photo, exif):
    assert read_image(photo("a.jpg", exif=exif), max_pixels=LIMIT).shape == (48, 64, 3)


def test_an_unknown_exif_orientation_is_taken_as_upright(photo, draw):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 9
    np.testing.assert_array_equal(read_image(photo("a.png", exif=exif), max_pixels=LIMIT), draw())


def test_cmyk_becomes_rgb(tmp_path):
    ink = Image.new("CMYK", (32, 24), (0, 255, 255, 0))
    ink.save(tmp_path / "a.jpg", quality=95)
    image = read_image(tmp_path / "a.jpg", max_pixels=LIMIT)
    assert image.shape == (24, 32, 3)
    np.testing.assert_allclose(image[5, 5], (255, 0, 0), atol=4)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_grey_of_16_bits_is_scaled_to_8(tmp_path, name):
    deep = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    assert cv2.imwrite(str(tmp_path / name), deep)
    image = read_image(tmp_path / name, max_pixels=LIMIT)
    np.testing.assert_array_equal(image, np.repeat(np.rint(deep / 257)[..., None], 3, axis=2))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_colour_of_16_bits_is_scaled_to_8(tmp_path, name):
    deep = np.random.default_rng(0).integers(0, 65536, (24, 32, 3), dtype=np.uint16)
    assert cv2.imwrite(str(tmp_path / name), deep)
    np.testing.assert_array_equal(read_image(tmp_path / name, max_pixels=LIMIT), np.rint(deep / 257)[..., ::-1])


def test_a_turned_picture_of_16_bits_is_turned_upright(tmp_path):
    deep = np.arange(0, 12 * 8 * 256, 256, dtype=np.uint16).reshape(8, 12)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(deep).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", max_pixels=LIMIT)[..., 0], np.rot90(deep >> 8, -1))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_without_an_agreed_range_are_spread_from_least_to_greatest(tmp_path, dtype):
    Image.fromarray(np.array([[-2, 0], [1, 2]], dtype=dtype)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", max_pixels=LIMIT)[..., 1].tolist() == [[0, 128], [191, 255]]


def test_floats_that_are_no_numbers_become_black(tmp_path):
    Image.fromarray(np.array([[np.nan, np.inf], [0, 4]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", max_pixels=LIMIT)[..., 0].tolist() == [[0, 0], [0, 255]]


@pytest.mark.parametrize("odd", [1e6, -9999, 3.4e38])
def test_a_few_values_far_from_all_others_do_not_darken_a_picture(tmp_path, odd):
    values = np.linspace(0, 1, 6400, dtype=np.float32).reshape(80, 80)
    seen = np.rint(values * 255)
    values[3, 5] = odd
    Image.fromarray(values).save(tmp_path / "a.tif")
    read = read_image(tmp_path / "a.tif", max_pixels=LIMIT)[..., 0].astype(int)
    assert read[3, 5] == (255 if odd > 0 else 0)
    read[3, 5] = seen[3, 5]
    assert np.abs(read - seen).max() <= 1


def test_a_small_thing_on_an_even_ground_keeps_the_whole_range(tmp_path):
    values = np.full((80, 80), -5, dtype=np.float32)
    values[3, 5:7] = 100, 50
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", max_pixels=LIMIT)[3, 4:7, 0].tolist() == [0, 255, 134]


def test_a_picture_without_a_number_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(tmp_path / "a.tif")
    assert reason(tmp_path / "a.tif") == "holds no numbers, only NaN and infinity"
    (tmp_path / "a.pfm").write_bytes(b"Pf 2 2 -1\n" + np.full(4, np.inf, dtype="<f4").tobytes())
    assert reason(tmp_path / "a.pfm") == "holds no numbers, only NaN and infinity"


def test_a_picture_of_one_float_value_becomes_black(tmp_path):
    Image.fromarray(np.full((4, 4), 7, dtype=np.float32)).save(tmp_path / "a.tif")
    assert not read_image(tmp_path / "a.tif", max_pixels=LIMIT).any()


def test_a_palette_gives_its_colours(tmp_path, draw):
    palette = Image.fromarray(draw()).quantize(16)
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", max_pixels=LIMIT), np.asarray(palette.convert("RGB")))


def test_transparent_entries_of_a_palette_become_white(tmp_path):
    picture = Image.new("P", (4, 2), 0)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((3, 1), 1)
    picture.save(tmp_path / "a.png", transparency=0)
    image = read_image(tmp_path / "a.png", max_pixels=LIMIT)
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[1, 3].tolist() == [200, 100, 50]


@pytest.mark.parametrize(
    ("mode", "ink", "shown"), [("RGBA", (100, 0, 50), (178, 128, 153)), ("LA", (100,), (178,) * 3)]
)
def test_alpha_is_laid_on_white(tmp_path, mode, ink, shown):
    picture = Image.new(mode, (3, 1), (*ink, 127))
    picture.putpixel((1, 0), (*ink, 0))
    picture.putpixel((2, 0), (*ink, 255))
    picture.save(tmp_path / "a.png")
    half, none, full = read_image(tmp_path / "a.png", max_pixels=LIMIT)[0]
    np.testing.assert_allclose(half, shown, atol=1)
    assert none.tolist() == [255, 255, 255]
    np.testing.assert_array_equal(full, np.broadcast_to(ink, 3))


@pytest.mark.parametrize("deep", [False, True])
def test_a_transparent_grey_becomes_white(tmp_path, deep):
    values = np.array([[9, 0], [9, 200]], dtype=np.uint16 if deep else np.uint8) * (257 if deep else 1)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=int(values[0, 0]))
    assert read_image(tmp_path / "a.png", max_pixels=LIMIT)[..., 0].tolist() == [[255, 0], [255, 200]]


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = np.eye(9, dtype=bool)
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", max_pixels=LIMIT)[..., 2], bits * np.uint8(255))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_the_first_picture_of_several_is_read(tmp_path, name):
    red, blue = (Image.new("RGB", (20, 10), colour) for colour in ("red", "blue"))
    red.save(tmp_path / name, save_all=True, append_images=[blue], **({"lossless": True} if "webp" in name else {}))
    image = read_image(tmp_path / name, max_pixels=LIMIT)
    assert image.shape == (10, 20, 3)
    np.testing.assert_array_equal(image[4, 4], (255, 0, 0))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (10, 20_000), (20_000, 10)])
def test_extreme_sizes_are_read(photo, draw, height, width):
    image = read_image(photo("a.png", height, width), max_pixels=LIMIT)
    np.testing.assert_array_equal(image, draw(height, width))


def test_an_empty_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert reason(tmp_path / "a.jpg") == "is empty (0 bytes)"


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.webp", "a.tif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file(photo, name, share):
    path = photo(name, 200, 300)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert reason(path).startswith(
        ("is truncated: the ", f"is a {Image.registered_extensions()[path.suffix]} file that")
    )


def test_a_truncated_jpeg_says_that_it_is_truncated(photo):
    path = photo("a.jpg", 200, 300)
    path.write_bytes(path.read_bytes()[:-2000])
    assert reason(path) == "is truncated: the JPEG data ends too early"


@pytest.mark.parametrize("name", ["a.jpg", "notes.txt", "a.json", "no-extension"])
def test_text_is_no_image_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_text('{"hello": "world, this is plain text"}')
    assert reason(tmp_path / name) == NO_IMAGE


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "a.png").write_bytes(png_header(30_000, 30_000))
    assert reason(tmp_path / "a.png", 200_000_000) == (
        "decodes to 900 megapixels; the limit is 200 (AL_MAX_IMAGE_PIXELS)"
    )


def test_the_limit_is_the_callers_and_not_pillows(photo, draw, monkeypatch):
    path = photo("a.png")
    before = Image.MAX_IMAGE_PIXELS
    assert reason(path, 48 * 64 - 1).startswith("decodes to 0.003072 megapixels; the limit is 0.003071")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(path, max_pixels=48 * 64), draw())
    monkeypatch.undo()
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", ["a.mp4", "a.MOV", "a.avi", "a.mkv", "a.webm"])
def test_a_video_by_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"something in between")
    assert reason(tmp_path / name) == "is a video, which is not read: give its frames as images"


@pytest.mark.parametrize(
    "start",
    [b"\0\0\0\x20ftypisom", b"\0\0\0\x14ftypqt  ", b"RIFF\x10\0\0\0AVI LIST", b"\x1a\x45\xdf\xa3\x93\x42\x82\x88"],
)
def test_a_video_by_its_content(tmp_path, start):
    (tmp_path / "a.jpg").write_bytes(start + bytes(100))
    assert reason(tmp_path / "a.jpg") == "is a video, which is not read: give its frames as images"


@pytest.mark.parametrize(("name", "start"), [("a.heic", b"anything"), ("a.jpg", b"\0\0\0\x18ftypheic")])
def test_a_heic_picture_says_what_to_do(tmp_path, name, start):
    (tmp_path / name).write_bytes(start + bytes(50))
    assert reason(tmp_path / name) == "is a HEIC image, which cannot be read: convert it to JPEG or PNG"


def test_a_vanished_file(tmp_path):
    assert reason(tmp_path / "gone.jpg") == "has vanished"


def test_a_link_to_nothing(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    assert reason(tmp_path / "a.jpg") == "is a link to a file that does not exist"


def test_a_link_to_itself(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "a.jpg")
    assert reason(tmp_path / "a.jpg") == "is a link that leads in a circle"


def test_a_folder_and_a_pipe_are_no_regular_files(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "folder.jpg") == reason(tmp_path / "pipe.jpg") == "is not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(photo):
    path = photo()
    path.chmod(0)
    assert reason(path) == "cannot be read: permission denied"


def test_a_name_too_long_for_the_file_system(tmp_path):
    assert reason(tmp_path / ("x" * 300 + ".jpg")) == "cannot be read: file name too long"


class Disk:
    """Opening files fails with an error of the disk so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, failures: int) -> None:
        self.number, self.failures, self.opened = number, failures, 0
        self.real = reading.open_regular
        monkeypatch.setattr(reading, "open_regular", self.open)

    @contextmanager
    def open(self, path: Path, *, max_bytes: int) -> Iterator[Any]:
        self.opened += 1
        with self.real(path, max_bytes=max_bytes) as file:
            if self.opened <= self.failures:
                raise OSError(self.number, os.strerror(self.number))
            yield file


READ = {
    "read_image": lambda path: read_image(path, max_pixels=LIMIT).shape,
    "read_file": lambda path: read_file(inspected(path), max_pixels=LIMIT).shape,
    "inspect_file": lambda path: (
        (row := inspect_file(path, root=None, max_pixels=LIMIT))["height"],
        row["width"],
        row["reason"] or 3,
    ),
}


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EMFILE])
@pytest.mark.parametrize("how", READ)
def test_a_file_is_read_again_after_an_error_that_passes(photo, monkeypatch, how, number):
    path = photo("a.png")
    disk = Disk(monkeypatch, number, failures=2)
    with capture_logs() as logs:
        assert READ[how](path) == (48, 64, 3)
    assert disk.opened == 3
    assert [(log["log_level"], log["event"], log["file_path"]) for log in logs] == [
        ("warning", "file is read again", str(path))
    ] * 2


def test_an_error_that_does_not_pass_is_the_reason_in_the_end(photo, monkeypatch):
    path = photo("a.png")
    disk = Disk(monkeypatch, errno.EIO, failures=100)
    row = inspect_file(path, root=None, max_pixels=LIMIT)
    assert (row["status"], row["reason"]) == ("quarantined", "cannot be read: input/output error")
    assert 1 < disk.opened < 10


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ELOOP])
def test_an_error_that_stays_is_not_waited_out(photo, monkeypatch, number):
    disk = Disk(monkeypatch, number, failures=100)
    assert reason(photo("a.png"))
    assert disk.opened == 1


def inspected(path: Path) -> ImageFile:
    status = path.stat()
    return ImageFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), status.st_size, status.st_mtime_ns)


def changed(file: ImageFile) -> str:
    with pytest.raises(UnreadableFileError) as caught:
        read_file(file, max_pixels=LIMIT)
    return str(caught.value)


HAS_CHANGED = "has changed since it was taken into its batch"


def test_a_file_that_stands_as_it_was_inspected_is_read(photo, draw):
    np.testing.assert_array_equal(read_file(inspected(photo("a.png")), max_pixels=LIMIT), draw())


@pytest.mark.parametrize("known", ["size and time", "size", "time", "neither"])
def test_a_file_that_was_only_touched_is_read_and_one_of_other_content_is_not(photo, draw, known):
    path = photo("a.bmp")
    file = inspected(path)
    if known in ("size", "neither"):
        file = replace(file, mtime_ns=None)
    if known in ("time", "neither"):
        file = replace(file, size_bytes=None)
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(read_file(file, max_pixels=LIMIT), draw())
    # The same size, another content.
    photo("a.bmp", seed=1)
    assert path.stat().st_size == inspected(path).size_bytes
    os.utime(path, ns=(2, 2))
    assert changed(file) == HAS_CHANGED


@pytest.mark.parametrize("how", ["longer", "shorter", "another file", "no picture"])
def test_a_file_of_another_size_has_changed_whatever_it_holds(photo, how):
    path = photo("a.png")
    file = inspected(path)
    content = path.read_bytes()
    if how == "another file":
        photo("b.png", 20, 20).replace(path)
    else:
        path.write_bytes({"longer": content + b"more", "shorter": content[:-9], "no picture": b"text"}[how])
    assert changed(file) == HAS_CHANGED


def test_a_file_that_is_gone_has_vanished(photo):
    file = inspected(photo("a.png"))
    Path(file.path).unlink()
    assert changed(file) == "has vanished"


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_file_that_changes_while_it_is_read_is_an_error(photo, monkeypatch, content):
    path = photo("a.png")
    file = inspected(path)
    real = reading.decode

    def decode_and_change(*args, **options):
        # In place, as an editor saves: the open file is the one that changes.
        if content:
            path.write_bytes(content)
            return real(*args, **options)
        decoded = real(*args, **options)
        path.write_bytes(b"")
        return decoded

    monkeypatch.setattr(reading, "decode", decode_and_change)
    assert changed(file) == "changed while it was being read"


def test_only_a_tiff_has_a_second_page(photo):
    assert changed(replace(inspected(photo("a.png")), page=1)) == "has no page 2"


@settings(max_examples=150)
@given(data=st.data())
def test_damage_anywhere_gives_an_image_or_a_reason(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    image_format = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000"]))
    buffer = io.BytesIO()
    Image.fromarray(np.arange(30 * 20 * 3, dtype=np.uint16).astype(np.uint8).reshape(20, 30, 3)).save(
        buffer, image_format
    )
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    sentence, image = "", None
    try:
        image = read_image(path, max_pixels=100_000)
    except UnreadableFileError as error:
        sentence = str(error)
    if image is None:
        assert sentence
        assert "\n" not in sentence
    else:
        assert image.dtype == np.uint8
        assert image.shape[2:] == (3,)
