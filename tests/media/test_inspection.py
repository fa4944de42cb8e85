import hashlib
import json
import subprocess
import sys
import threading
import weakref
from datetime import datetime

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.ExifTags import Base

from al_dagster.core.ids import source_id
from al_dagster.core.schemas import SOURCES
from al_dagster.media import inspection
from al_dagster.media.inspection import THUMBNAIL_SIDE, inspect_file, inspect_files, perceptual_hash, thumbnail
from al_dagster.media.reading import read_image

LIMIT = 1_000_000


def bits_apart(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def test_a_readable_file_gives_a_whole_row(photo, tmp_path):
    path = photo("photo.jpg")
    row = inspect_file(path, root=tmp_path, max_pixels=LIMIT)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(row) == SOURCES.names
    assert len(row.pop("perceptual_hash")) == 64
    assert len(row.pop("thumbnail")) == THUMBNAIL_SIDE**2
    assert json.loads(row.pop("metadata")) == {"format": "JPEG", "mode": "RGB", "exif_orientation": 1, "plain": True}
    assert row == {
        "file_path": str(path),
        "status": "ready",
        "reason": None,
        "source_id": source_id(sha256),
        "source_type": "image",
        "sha256": sha256,
        "width": 64,
        "height": 48,
        "frame_count": 1,
        "fps": None,
        "captured_at": None,
        "size_bytes": path.stat().st_size,
        "mtime_ns": path.stat().st_mtime_ns,
    }


def test_an_unreadable_file_gives_a_quarantined_row_with_its_reason_size_and_time(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_text("this is text")
    row = inspect_file(path, root=tmp_path, max_pixels=LIMIT)
    assert {key: value for key, value in row.items() if value is not None} == {
        "file_path": str(path),
        "status": "quarantined",
        "reason": "is no image of a kind that is read: JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000, AVIF and PNM",
        "size_bytes": 12,
        "mtime_ns": path.stat().st_mtime_ns,
    }


def test_a_vanished_file_is_quarantined(tmp_path):
    row = inspect_file(tmp_path / "gone.jpg", root=tmp_path, max_pixels=LIMIT)
    assert (row["status"], row["reason"], row["size_bytes"]) == ("quarantined", "has vanished", None)


def test_a_link_out_of_the_folder_is_quarantined_and_its_target_not_read(photo, tmp_path):
    target = photo("outside/secret.png")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    link = inbox / "a.png"
    link.symlink_to(target)
    row = inspect_file(link, root=inbox, max_pixels=LIMIT)
    assert (row["status"], row["reason"]) == ("quarantined", "links to a file outside the folder")
    assert row["size_bytes"] == link.lstat().st_size != target.stat().st_size
    assert inspect_file(link, root=None, max_pixels=LIMIT)["status"] == "ready"


def test_a_file_in_a_linked_folder_outside_is_quarantined(photo, tmp_path):
    photo("outside/a.png")
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "folder").symlink_to(tmp_path / "outside")
    row = inspect_file(tmp_path / "inbox" / "folder" / "a.png", root=tmp_path / "inbox", max_pixels=LIMIT)
    assert row["reason"] == "links to a file outside the folder"


def test_a_link_within_the_folder_and_an_inbox_that_is_a_link_are_fine(photo, tmp_path):
    target = photo("inbox/a.png")
    (tmp_path / "inbox" / "b.png").symlink_to(target)
    (tmp_path / "alias").symlink_to(tmp_path / "inbox")
    row = inspect_file(tmp_path / "alias" / "b.png", root=tmp_path / "alias", max_pixels=LIMIT)
    assert (row["status"], row["size_bytes"]) == ("ready", target.stat().st_size)


@pytest.mark.parametrize("name", ["with space.png", "quo'te\".png", "new\nline.png", "사진 한 장.png", "%20;`$x`.png"])
def test_any_name_that_is_utf8_is_ready(photo, tmp_path, name):
    row = inspect_file(photo(name), root=tmp_path, max_pixels=LIMIT)
    assert (row["status"], row["file_path"]) == ("ready", str(tmp_path / name))


def test_the_same_bytes_under_two_names_are_one_source(photo, tmp_path):
    first = photo("a.png")
    second = tmp_path / "b.png"
    second.write_bytes(first.read_bytes())
    rows = inspect_files([first, second], root=tmp_path, max_pixels=LIMIT)
    assert rows[0]["source_id"] == rows[1]["source_id"]
    assert rows[0]["file_path"] != rows[1]["file_path"]


@pytest.mark.parametrize("how", ["written to", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_read_is_quarantined(photo, tmp_path, monkeypatch, how):
    path = photo("a.png")
    real = inspection.decode_pages

    def decode_and_change(*args, **options):
        decoded = list(real(*args, **options))
        if how == "written to":
            with path.open("ab") as file:
                file.write(b"more")
        elif how == "replaced":
            photo("b.png", seed=1).replace(path)
        else:
            path.unlink()
        return iter(decoded)

    monkeypatch.setattr(inspection, "decode_pages", decode_and_change)
    row = inspect_file(path, root=tmp_path, max_pixels=LIMIT)
    assert (row["status"], row["reason"]) == ("quarantined", "changed while it was being read")
    assert row["source_id"] is None


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_width_and_height_are_those_of_the_upright_image(photo, tmp_path, name):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    row = inspect_file(photo(name, exif=exif), root=tmp_path, max_pixels=LIMIT)
    assert (row["width"], row["height"]) == (48, 64)
    assert json.loads(row["metadata"])["exif_orientation"] == 6


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    return exif


@pytest.mark.parametrize(
    ("name", "mode", "options", "plain"),
    [
        ("a.jpg", "RGB", {}, True),
        ("a.JPEG", "L", {}, True),
        ("a.png", "RGB", {}, True),
        ("a.png", "RGBA", {}, False),
        ("a.png", "P", {}, False),
        ("a.png", "1", {}, False),
        ("a.png", "I;16", {}, False),
        ("a.jpg", "CMYK", {}, False),
        ("a.jpg", "RGB", {"exif": _turned()}, False),
        ("a.gif", "P", {}, False),
        ("a.tif", "RGB", {}, False),
        ("a.dat", "RGB", {"format": "JPEG"}, False),
        ("a.png", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (9, 8), "red")]}, False),
    ],
)
def test_only_a_file_that_every_reader_sees_alike_is_plain(tmp_path, name, mode, options, plain):
    Image.new(mode, (9, 8)).save(tmp_path / name, **options)
    row = inspect_file(tmp_path / name, root=tmp_path, max_pixels=LIMIT)
    assert row["status"] == "ready"
    assert json.loads(row["metadata"])["plain"] is plain


def test_colour_of_16_bits_is_not_plain(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), dtype=np.uint16))
    row = inspect_file(tmp_path / "a.png", root=tmp_path, max_pixels=LIMIT)
    assert json.loads(row["metadata"])["plain"] is False


def test_a_recompressed_or_resized_copy_has_nearly_the_same_hash_and_another_picture_does_not(tmp_path):
    whole, other = (
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((1024, 768))
        for seed in (3, 4)
    )
    whole.save(tmp_path / "small.jpg", quality=70)
    with Image.open(tmp_path / "small.jpg") as recompressed:
        assert bits_apart(perceptual_hash(whole), perceptual_hash(recompressed.convert("RGB"))) <= 6
    assert bits_apart(perceptual_hash(whole), perceptual_hash(whole.resize((512, 384)))) <= 12
    assert bits_apart(perceptual_hash(whole), perceptual_hash(other)) > 60


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (3, 5000)])
def test_every_size_has_a_hash_of_64_hex_characters(size):
    assert len(bytes.fromhex(perceptual_hash(Image.new("RGB", size, "white")))) == 32


def test_good_files_go_through_beside_bad_ones_in_their_order(photo, tmp_path):
    good = [photo(f"{index:02}.png", seed=index) for index in range(0, 20, 2)]
    bad = [tmp_path / f"{index:02}.png" for index in range(1, 20, 2)]
    for path in bad:
        path.write_bytes(b"")
    paths = sorted(good + bad)
    calls: list[tuple[int, int]] = []
    rows = inspect_files(paths, root=tmp_path, max_pixels=LIMIT, workers=3, progress=lambda *done: calls.append(done))
    assert [row["file_path"] for row in rows] == [str(path) for path in paths]
    assert [row["status"] for row in rows] == ["ready", "quarantined"] * 10
    assert calls == [(index, 20) for index in range(1, 21)]


def test_the_decoded_image_is_handed_on(photo, tmp_path):
    paths = [photo("a.png"), photo("b.png", seed=1)]
    (tmp_path / "c.png").write_bytes(b"")
    kept: dict[str, np.ndarray] = {}
    lock = threading.Lock()

    def keep(sha256: str, image: np.ndarray) -> None:
        with lock:
            kept[sha256] = image

    rows = inspect_files([*paths, tmp_path / "c.png"], root=tmp_path, max_pixels=LIMIT, keep=keep)
    assert kept.keys() == {row["sha256"] for row in rows[:2]}
    for row in rows[:2]:
        np.testing.assert_array_equal(kept[row["sha256"]], read_image(row["file_path"], max_pixels=LIMIT))


@pytest.mark.parametrize("name", ["a.png", "a.ppm", "a.tif"])
@pytest.mark.parametrize("fit", [1, 3])
def test_the_pixels_that_all_threads_hold_at_once_are_bounded(photo, tmp_path, name, fit):
    paths = [photo(f"{index}{name}", 48, 64, seed=index) for index in range(16)]
    lock = threading.Lock()
    held: list[int] = [0]
    most: list[int] = [0]

    def keep(sha256: str, image: np.ndarray) -> None:
        with lock:
            held[0] += 1
            most[0] = max(most[0], held[0])
        threading.Event().wait(0.005)
        with lock:
            held[0] -= 1

    rows = inspect_files(paths, root=tmp_path, max_pixels=fit * 48 * 64, workers=8, keep=keep)
    assert {row["status"] for row in rows} == {"ready"}
    assert most[0] <= fit


def test_the_memory_of_large_pictures_is_given_back_by_the_thread_that_decoded_them(tmp_path):
    side, count = 4000, 6
    for index in range(count):
        Image.new("RGB", (side, side), (40 * index, 0, 0)).save(tmp_path / f"{index}.png", compress_level=1)
    script = (
        "import resource, sys\n"
        "from al_dagster.media.inspection import inspect_files\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        f"inspect_files(sys.argv[1:2], root=None, max_pixels={side * side}, workers=1)\n"
        "one = peak()\n"
        f"inspect_files(sys.argv[1:], root=None, max_pixels={side * side}, workers={count})\n"
        "print(peak() - one)\n"
    )
    paths = sorted(str(path) for path in tmp_path.glob("*.png"))
    more = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True).stdout
    assert int(more) < side * side * 4 * 1.5


def test_one_page_of_a_file_is_held_at_a_time(tmp_path, monkeypatch):
    path = scan(tmp_path / "a.tif", [page(n) for n in range(6)])
    real, pictures, alive = inspection.decode_pages, [], []

    def decoded(*args, **options):
        for page in (pages := real(*args, **options)):
            pictures.append(weakref.ref(page.picture))
            yield page
            del page
            alive.append(sum(picture() is not None for picture in pictures))
        assert pages is not None

    monkeypatch.setattr(inspection, "decode_pages", decoded)
    assert inspect_file(path, root=None, max_pixels=LIMIT)["frame_count"] == 6
    assert len(pictures) == 6
    assert max(alive) <= 1


@pytest.mark.parametrize("damaged", [0, 8])
def test_damaged_files_among_large_ones_do_not_stop_the_others(photo, tmp_path, damaged):
    paths = [photo(f"{index}.png", 48, 64, seed=index) for index in range(8)]
    for path in paths[:damaged]:
        path.write_bytes(path.read_bytes()[:-400])
    rows = inspect_files([*paths, *paths], root=tmp_path, max_pixels=48 * 64, workers=8)
    assert [row["status"] for row in rows] == (["quarantined"] * damaged + ["ready"] * (8 - damaged)) * 2


def test_the_rows_fit_the_declared_schema(photo, tmp_path):
    import pyarrow as pa

    rows = inspect_files([photo(), tmp_path / "gone.jpg"], root=tmp_path, max_pixels=LIMIT)
    assert pa.Table.from_pylist(rows, schema=SOURCES).num_rows == 2


def page(number: int, width: int = 30, height: int = 20) -> Image.Image:
    return Image.new("RGB", (width, height), (60 * number, 0, 200))


def scan(path, pages, **options):
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    return path


@pytest.mark.parametrize("compression", [None, "jpeg", "tiff_lzw", "packbits"])
def test_each_page_of_a_tiff_is_counted_with_its_own_size(tmp_path, compression):
    path = scan(tmp_path / "a.tif", [page(0), page(1, 9, 40), page(2)], compression=compression)
    row = inspect_file(path, root=None, max_pixels=LIMIT)
    assert (row["status"], row["reason"], row["frame_count"]) == ("ready", None, 3)
    assert (row["width"], row["height"]) == (30, 20)
    assert json.loads(row["metadata"])["pages"] == [[30, 20], [9, 40], [30, 20]]


def test_a_file_of_one_page_names_no_pages(photo):
    row = inspect_file(photo("a.tif"), root=None, max_pixels=LIMIT)
    assert row["frame_count"] == 1
    assert "pages" not in json.loads(row["metadata"])


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_page_that_cannot_be_read_is_left_out_and_named_and_the_others_stay(tmp_path, damaged):
    path = scan(tmp_path / "a.tif", [page(n, 30 + n) for n in range(3)], compression="tiff_adobe_deflate")
    with Image.open(path) as opened:
        opened.seek(damaged)
        place = opened.tag_v2[273][0]
    content = bytearray(path.read_bytes())
    content[place : place + 8] = b"\xff" * 8
    path.write_bytes(content)
    row = inspect_file(path, root=None, max_pixels=LIMIT)
    assert (row["status"], row["frame_count"]) == ("ready", 3)
    assert row["reason"].startswith(f"page {damaged + 1} of 3 is left out: it is a TIFF file that cannot be read")
    sizes = json.loads(row["metadata"])["pages"]
    assert sizes == [None if number == damaged else [30 + number, 20] for number in range(3)]
    assert row["width"] == (31 if damaged == 0 else 30)
    assert json.loads(row["metadata"])["left_out"] == row["reason"]


def test_pages_that_the_file_ends_before_are_left_out_and_named(tmp_path):
    path = scan(tmp_path / "a.tif", [page(n, 30 + n) for n in range(3)])
    with Image.open(path) as opened:
        opened.seek(2)
        place = opened.tag_v2._offset
    path.write_bytes(path.read_bytes()[:place])
    row = inspect_file(path, root=None, max_pixels=LIMIT)
    assert (row["status"], row["frame_count"]) == ("ready", 3)
    assert row["reason"] == "page 3 of 3 is left out: it is truncated: the TIFF data ends too early"


def test_a_page_larger_than_the_limit_is_left_out_and_the_others_stay(tmp_path):
    path = scan(tmp_path / "a.tif", [page(0), page(1, 90, 90), page(2)])
    row = inspect_file(path, root=None, max_pixels=1000)
    assert row["status"] == "ready"
    assert row["reason"].startswith("page 2 of 3 is left out: it decodes to 0.0081 megapixels; the limit is 0.001")


def test_a_file_of_which_no_page_can_be_read_is_quarantined_with_the_reason_of_the_first(tmp_path):
    path = scan(tmp_path / "a.tif", [page(0, 50, 50), page(1, 90, 90)])
    row = inspect_file(path, root=None, max_pixels=1000)
    assert row["status"] == "quarantined"
    assert row["reason"].startswith("decodes to 0.0025 megapixels")


def test_only_the_image_of_the_first_page_is_handed_on(tmp_path):
    kept = []
    path = scan(tmp_path / "a.tif", [page(0), page(1)])
    inspect_file(path, root=None, max_pixels=LIMIT, keep=lambda sha256, image: kept.append(image[0, 0, 0]))
    assert kept == [0]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
def test_of_an_animation_the_row_says_that_only_the_first_frame_is_labelled(tmp_path, name):
    row = inspect_file(scan(tmp_path / name, [page(n) for n in range(4)]), root=None, max_pixels=LIMIT)
    assert (row["status"], row["frame_count"]) == ("ready", 1)
    assert row["reason"] == "only the first of the 4 frames of this file is labelled"
    assert json.loads(row["metadata"])["pictures"] == 4


def test_of_several_pictures_in_a_jpeg_the_row_says_that_only_the_first_is_labelled(tmp_path):
    path = scan(tmp_path / "a.jpg", [page(0), page(1)], format="MPO")
    row = inspect_file(path, root=None, max_pixels=LIMIT)
    assert row["reason"] == "only the first of the 2 pictures of this file is labelled"


def camera(**stated) -> Image.Exif:
    exif = Image.Exif()
    exif[Base.Make] = "a camera"
    exif.get_ifd(ExifTags.IFD.Exif).update({Base[name]: value for name, value in stated.items()})
    # Pillow writes the block into a TIFF only where it stands among the other tags.
    exif[ExifTags.IFD.Exif] = 0
    return exif


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_the_time_of_capture_is_read_to_the_millisecond(photo, name):
    exif = camera(
        DateTimeOriginal="2024:05:17 08:09:10", SubsecTimeOriginal="25", DateTimeDigitized="2001:01:01 00:00:00"
    )
    row = inspect_file(photo(name, exif=exif), root=None, max_pixels=LIMIT)
    assert row["captured_at"] == datetime(2024, 5, 17, 8, 9, 10, 250_000)


@pytest.mark.parametrize(
    ("stated", "moment"),
    [
        ({"DateTimeDigitized": "2024:05:17 08:09:10", "SubsecTimeDigitized": "007"}, (8, 9, 10, 7000)),
        ({"DateTimeOriginal": "    :  :     :  :  ", "DateTimeDigitized": "2024:05:17 08:09:10"}, (8, 9, 10, 0)),
        ({"DateTimeOriginal": "2024:05:17 08:09:10", "SubsecTimeOriginal": "123456"}, (8, 9, 10, 123_000)),
        ({"DateTimeOriginal": "2024:05:17 08:09:10", "SubsecTimeOriginal": "x"}, (8, 9, 10, 0)),
        ({"DateTimeOriginal": "2024:05:17 08:09:10", "SubsecTimeDigitized": "5"}, (8, 9, 10, 0)),
        ({"DateTimeOriginal": "0000:00:00 00:00:00"}, None),
        ({"DateTimeOriginal": "2024:13:45 99:00:00"}, None),
        ({"DateTimeOriginal": "yesterday"}, None),
        ({"DateTimeOriginal": 7}, None),
        ({"SubsecTimeOriginal": "5"}, None),
    ],
)
def test_a_time_that_is_no_time_is_none(photo, stated, moment):
    row = inspect_file(photo("a.jpg", exif=camera(**stated)), root=None, max_pixels=LIMIT)
    assert row["captured_at"] == (datetime(2024, 5, 17, *moment) if moment else None)


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (1, 1), (3000, 20), (33, 1000)])
def test_the_thumbnail_is_the_mean_grey_of_each_part(size):
    across = np.linspace(0, 255, size[0])[None, :].repeat(size[1], axis=0)
    levels = np.frombuffer(thumbnail(Image.fromarray(across.astype(np.uint8)).convert("RGB")), np.uint8)
    levels = levels.reshape(THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    assert (levels == levels[0]).all()
    parts = np.arange(THUMBNAIL_SIDE) * size[0] / THUMBNAIL_SIDE
    middles = np.interp(parts + size[0] / THUMBNAIL_SIDE / 2 - 0.5, np.arange(size[0]), across[0])
    np.testing.assert_allclose(levels[0], middles, atol=5)


def test_the_thumbnail_is_that_of_the_upright_picture(photo):
    exif = Image.Exif()
    exif[Base.Orientation] = 3
    plain, turned = (
        np.frombuffer(inspect_file(path, root=None, max_pixels=LIMIT)["thumbnail"], np.uint8).reshape(32, 32)
        for path in (photo("a.png", 64, 64), photo("b.png", 64, 64, exif=exif))
    )
    np.testing.assert_allclose(turned, plain[::-1, ::-1], atol=1)
