import hashlib
import weakref
from itertools import chain

import numpy as np
import pytest

from al_dagster.core.progress import listening
from al_dagster.labelling import images
from al_dagster.labelling.images import frame_images
from al_dagster.media.loader import ImageLoader
from al_dagster.vision.parallel import stream_calls

WIDTH, HEIGHT = 20, 10


@pytest.fixture
def loader():
    with ImageLoader(max_pixels=100_000, cache_mb=0) as opened:
        yield opened


@pytest.fixture
def frames(tmp_path, save_picture):
    """Makes rows of frames whose pictures are of these sizes, each of a colour of its own."""

    def make(*sizes):
        rows = []
        for number, (width, height) in enumerate(sizes):
            path = save_picture(tmp_path / f"{number}.png", np.full((height, width, 3), number, np.uint8))
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.append(
                {
                    "frame_id": number,
                    "frame_idx": 0,
                    "file_path": str(path),
                    "sha256": sha256,
                    "size_bytes": path.stat().st_size,
                    "mtime_ns": path.stat().st_mtime_ns,
                    "width": width,
                    "height": height,
                }
            )
        return rows

    return make


def numbers(chunks) -> list[list[int]]:
    """The numbers of the frames of chunks, whose pictures must be theirs."""
    chunks = list(chunks)
    for chunk in chunks:
        for frame, image in chunk:
            assert image.shape == (frame["height"], frame["width"], 3)
            assert (image == frame["frame_id"]).all()
    return [[frame["frame_id"] for frame, _ in chunk] for chunk in chunks]


@pytest.mark.parametrize(
    ("count", "chunk", "sizes"),
    [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 3, [2]), (3, 1, [1, 1, 1]), (0, 3, [])],
)
def test_every_frame_comes_in_order_in_chunks_of_at_most_so_many(loader, frames, count, chunk, sizes):
    found = numbers(frame_images("step", frames(*[(WIDTH, HEIGHT)] * count), loader, chunk, {}))
    assert [len(part) for part in found] == sizes
    assert list(chain(*found)) == list(range(count))


def test_a_chunk_ends_with_the_image_that_fills_its_pixels(loader, frames, monkeypatch):
    monkeypatch.setattr(images, "CHUNK_PIXELS", 3 * WIDTH * HEIGHT)
    small, large = (WIDTH, HEIGHT), (4 * WIDTH, HEIGHT)
    found = numbers(frame_images("step", frames(small, small, small, small, large, large, small), loader, 100, {}))
    assert found == [[0, 1, 2], [3, 4], [5], [6]]


def test_no_more_images_are_decoded_ahead_than_fill_a_chunk(loader, frames, monkeypatch):
    monkeypatch.setattr(images, "CHUNK_PIXELS", 3 * WIDTH * HEIGHT)
    started = []
    monkeypatch.setattr(loader, "load", lambda file: started.append(file) or ImageLoader.load(loader, file))
    for sizes, chunk, most in (
        ([(WIDTH, HEIGHT)] * 9, 100, 3),
        ([(WIDTH, HEIGHT)] * 9, 2, 2),
        ([(9 * WIDTH, HEIGHT)] * 2, 100, 1),
        ([(WIDTH, HEIGHT), (9 * WIDTH, HEIGHT), (WIDTH, HEIGHT)], 100, 1),
    ):
        started.clear()
        loader.clear()
        found = frame_images("step", frames(*sizes), loader, chunk, {})
        handed_out = 0
        for part in found:
            handed_out += len(part)
            assert len(started) <= handed_out + most
        assert handed_out == len(sizes)


@pytest.mark.parametrize("count", [12, 120])
def test_the_images_held_while_a_model_is_called_do_not_grow_with_their_number(loader, frames, count):
    seen, held = [], []

    def call(chunk):
        seen.extend(weakref.ref(image) for _, image in chunk)
        held.append(sum(image() is not None for image in seen))

    for _ in stream_calls(call, frame_images("step", frames(*[(WIDTH, HEIGHT)] * count), loader, 4, {})):
        pass
    assert len(seen) == count
    assert 4 <= max(held) <= 3 * 4


@pytest.mark.parametrize(
    ("unreadable", "expected"),
    [
        ([1], [[0, 2], [3, 4]]),
        ([4], [[0, 1], [2, 3]]),
        ([3, 4], [[0, 1], [2]]),
        ([2, 4], [[0, 1], [3]]),
        ([0, 1, 2, 3, 4], []),
    ],
)
def test_a_file_that_cannot_be_read_is_left_out_and_the_last_chunk_still_comes(
    loader, frames, tmp_path, unreadable, expected
):
    rows = frames(*[(WIDTH, HEIGHT)] * 5)
    for number in unreadable:
        (tmp_path / f"{number}.png").write_bytes(b"no picture any more")
    failures = {}
    assert numbers(frame_images("step", rows, loader, 2, failures)) == expected
    assert set(failures) == set(unreadable)
    assert set(failures.values()) <= {"has changed since it was taken into its batch"}


def test_a_file_that_was_overwritten_is_a_failure_and_its_neighbours_are_read(loader, frames, save_picture, tmp_path):
    rows = frames(*[(WIDTH, HEIGHT)] * 3)
    changed = tmp_path / "1.png"
    save_picture(changed, np.full((HEIGHT, WIDTH, 3), 99, np.uint8))
    failures = {}
    assert numbers(frame_images("step", rows, loader, 3, failures)) == [[0, 2]]
    assert failures == {1: "has changed since it was taken into its batch"}


def test_rows_of_older_versions_know_neither_size_nor_time_and_are_read_by_their_content(loader, frames, tmp_path):
    rows = [{**row, "size_bytes": None, "mtime_ns": None} for row in frames(*[(WIDTH, HEIGHT)] * 3)]
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    failures = {}
    assert numbers(frame_images("step", rows, loader, 3, failures)) == [[0, 1]]
    assert failures == {2: "has changed since it was taken into its batch"}


@pytest.mark.parametrize("unreadable", [[], [1], [4], [3, 4], [0, 1, 2, 3, 4]])
def test_progress_goes_up_to_the_end(loader, frames, tmp_path, unreadable):
    rows = frames(*[(WIDTH, HEIGHT)] * 5)
    for number in unreadable:
        (tmp_path / f"{number}.png").unlink()
    told = []
    with listening(lambda *report: told.append(report)):
        numbers(frame_images("step", rows, loader, 2, {}))
    assert told[-1] == ("step", 5, 5)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
