import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media import loader as loading
from al_dagster.media.loader import ImageLoader
from al_dagster.media.reading import ImageFile

LIMIT = 10_000_000
MIB = 1024 * 1024
Items = list[ImageFile]


@pytest.fixture
def items(photo: Callable[..., Path]) -> Items:
    """Eight pictures of 0.75 MiB each when decoded."""
    paths = [photo(f"{index}.bmp", 512, 512, seed=index) for index in range(8)]
    return [
        ImageFile(
            str(path),
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_size,
            path.stat().st_mtime_ns,
        )
        for path in paths
    ]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded, in order."""
    seen: list[str] = []
    real = loading.read_file

    def counted(file: ImageFile, *, max_pixels: int) -> np.ndarray:
        seen.append(Path(file.path).name)
        return real(file, max_pixels=max_pixels)

    monkeypatch.setattr(loading, "read_file", counted)
    return seen


def test_images_come_in_their_order(items, draw):
    with ImageLoader(LIMIT, 64, workers=3) as loader:
        for index, image in enumerate(loader.images(items)):
            np.testing.assert_array_equal(image, draw(512, 512, index))
    assert index == 7


def test_each_image_is_decoded_once_for_several_stages(items, decoded):
    with ImageLoader(LIMIT, 64) as loader:
        for _ in range(3):
            assert len(list(loader.images(items))) == 8
        loader.load(items[0])
    assert sorted(decoded) == [f"{index}.bmp" for index in range(8)]


def test_stages_that_read_more_than_the_cache_holds_decode_again_only_what_does_not_fit(items, decoded):
    with ImageLoader(LIMIT, 5) as loader:
        for _ in range(3):
            assert len(list(loader.images(items))) == 8
            assert loader.cached_bytes == 6 * 512 * 512 * 3
    assert len(decoded) == 8 + 2 + 2


def test_the_cache_stays_within_its_memory_and_keeps_what_it_holds(items, decoded):
    with ImageLoader(LIMIT, 2) as loader:
        for index in (0, 1, 2, 0, 1, 2):
            loader.load(items[index])
            assert loader.cached_bytes <= 2 * MIB
    assert decoded == ["0.bmp", "1.bmp", "2.bmp", "2.bmp"]


def test_without_a_cache_every_load_decodes(items, decoded):
    with ImageLoader(LIMIT, 0) as loader:
        loader.load(items[0])
        loader.load(items[0])
        assert loader.cached_bytes == 0
    assert decoded == ["0.bmp", "0.bmp"]


def test_no_more_than_the_look_ahead_is_decoded_before_it_is_asked_for(items, decoded):
    def settles_at(count: int) -> bool:
        deadline = time.monotonic() + 20
        while len(decoded) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        return len(decoded) == count

    with ImageLoader(LIMIT, 0, look_ahead=3) as loader:
        images = loader.images(items)
        next(images)
        assert settles_at(3)
        next(images)
        assert settles_at(4)
        images.close()


@pytest.mark.parametrize(("fit", "ahead"), [(1, 0), (3, 2), (50, 7)])
def test_the_pixels_decoded_before_they_are_asked_for_are_bounded(items, monkeypatch, fit, ahead):
    size = 512 * 512
    started: list[ImageFile] = []
    with ImageLoader(fit * size, 0, workers=8, look_ahead=50) as loader:
        real = loader.load
        monkeypatch.setattr(loader, "load", lambda file: started.append(file) or real(file))
        images = loader.images([replace(item, pixels=size) for item in items])
        for asked, _ in enumerate(images, start=1):
            assert len(started) <= asked + ahead
    assert len(started) == 8


def test_one_file_asked_for_by_many_threads_is_decoded_once(items, decoded):
    together = threading.Barrier(4)
    with ImageLoader(LIMIT, 64) as loader, ThreadPoolExecutor(4) as pool:

        def ask(_: int) -> np.ndarray:
            together.wait()
            return loader.load(items[0])

        images = list(pool.map(ask, range(4)))
    assert decoded == ["0.bmp"]
    assert all(image is images[0] for image in images)


def test_many_threads_over_a_small_cache_get_the_right_images(items, draw):
    expected = [draw(512, 512, index) for index in range(8)]
    with ImageLoader(LIMIT, 2) as loader, ThreadPoolExecutor(4) as pool:

        def check(seed: int) -> bool:
            order = np.random.default_rng(seed).permutation(8)
            chosen = [items[index] for index in order]
            return all(
                np.array_equal(image, expected[index])
                for index, image in zip(order, loader.images(chosen), strict=True)
            )

        assert all(pool.map(check, range(6)))
        assert loader.cached_bytes <= 2 * MIB


def test_cached_images_cannot_be_changed_by_a_stage(items):
    with ImageLoader(LIMIT, 64) as loader:
        image = loader.load(items[0])
        with pytest.raises(ValueError, match="read-only"):
            image[0, 0] = 0


def test_an_image_put_in_by_another_is_not_decoded(items, decoded):
    with ImageLoader(LIMIT, 64) as loader:
        mine = np.zeros((4, 4, 3), dtype=np.uint8)
        loader.put(items[0].sha256, mine)
        assert loader.load(items[0]) is mine
        assert not mine.flags.writeable
    assert decoded == []


def test_a_file_gone_since_gives_its_error_in_its_place_and_the_others_follow(items):
    Path(items[2].path).unlink()
    with ImageLoader(LIMIT, 64) as loader:
        outcomes = list(loader.outcomes(items))
        with pytest.raises(UnreadableFileError, match="has vanished"):
            list(loader.images(items))
    assert isinstance(outcomes[2], UnreadableFileError)
    assert [isinstance(outcome, np.ndarray) for outcome in outcomes] == [index != 2 for index in range(8)]


def test_a_file_that_failed_can_be_loaded_once_it_is_back(items, draw):
    path = Path(items[0].path)
    content = path.read_bytes()
    path.unlink()
    with ImageLoader(LIMIT, 64) as loader:
        with pytest.raises(UnreadableFileError):
            loader.load(items[0])
        path.write_bytes(content)
        np.testing.assert_array_equal(loader.load(items[0]), draw(512, 512, 0))


def test_clearing_frees_the_memory(items):
    with ImageLoader(LIMIT, 64) as loader:
        loader.load(items[0])
        loader.clear()
        assert loader.cached_bytes == 0


def test_the_same_content_under_another_path_serves_where_the_first_is_gone(items, draw, tmp_path):
    copy = tmp_path / "copy.bmp"
    copy.write_bytes(Path(items[0].path).read_bytes())
    Path(items[0].path).unlink()
    with ImageLoader(LIMIT, 64) as loader:
        with pytest.raises(UnreadableFileError, match="has vanished"):
            loader.load(items[0])
        np.testing.assert_array_equal(loader.load(replace(items[0], path=str(copy))), draw(512, 512, 0))


def test_a_file_that_holds_something_else_by_now_is_an_error_in_its_place(items):
    Path(items[1].path).write_bytes(Path(items[0].path).read_bytes())
    with ImageLoader(LIMIT, 64) as loader:
        outcomes = list(loader.outcomes(items[:3]))
        assert str(outcomes[1]) == "has changed since it was taken into its batch"
        assert [isinstance(outcome, np.ndarray) for outcome in outcomes] == [True, False, True]


def test_pages_of_one_file_are_images_of_their_own(tmp_path):
    pages = [Image.new("RGB", (8, 6), (50 * number, 0, 0)) for number in range(3)]
    path = tmp_path / "a.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    files = [ImageFile(str(path), sha256, page=number) for number in (0, 1, 2, 1)]
    with ImageLoader(LIMIT, 64) as loader:
        for _ in range(2):
            assert [image[0, 0, 0] for image in loader.images(files)] == [0, 50, 100, 50]
        loader.put("another", np.full((2, 2, 3), 7, dtype=np.uint8), page=1)
        assert loader.load(ImageFile("nowhere", "another", page=1))[0, 0, 0] == 7
