"""The mask store."""

import hashlib
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from PIL import Image

from al_dagster.core.errors import UserError
from al_dagster.core.rle import encode
from al_dagster.registry.masks import MaskStore

FRAME, ID, PRINT = "frm_xy34klmnopqr", "obj_ab12cdefghij", "0123456789abcdef"


@pytest.fixture
def store(tmp_path):
    return MaskStore(tmp_path / "masks")


@settings(max_examples=40)
@given(mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=70)))
def test_a_mask_comes_back_bit_for_bit(tmp_path_factory, mask):
    store = MaskStore(tmp_path_factory.getbasetemp() / "masks")
    read = store.read(
        store.write(FRAME, ID, hashlib.sha256(mask.tobytes() + str(mask.shape).encode()).hexdigest(), mask)
    )
    assert read.dtype == np.bool_
    np.testing.assert_array_equal(read, mask)


def test_a_mask_is_a_one_bit_png_sharded_by_frame_and_versioned_by_fingerprint(store):
    relative = store.write(FRAME, ID, PRINT, np.eye(9, dtype=bool))
    assert relative == "xy/34/obj_ab12cdefghij-01234567.png"
    with Image.open(store.root / relative) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "1", (9, 9))


def test_a_part_is_placed_in_its_frame(store):
    part = np.ones((2, 3), dtype=bool)
    expected = np.zeros((10, 20), dtype=bool)
    expected[4:6, 5:8] = True
    read = store.read(store.write(FRAME, ID, PRINT, part, offset=(5, 4), frame_size=(20, 10)))
    np.testing.assert_array_equal(read, expected)


def test_a_version_that_is_there_is_not_written_again(store):
    path = store.root / store.write(FRAME, ID, PRINT, np.eye(9, dtype=bool))
    before = path.stat()
    assert store.write(FRAME, ID, PRINT, np.zeros((9, 9), dtype=bool)) == str(path.relative_to(store.root))
    assert path.stat()[stat.ST_MTIME] == before[stat.ST_MTIME]
    assert store.read(str(path.relative_to(store.root))).any()


def test_another_version_stands_beside_the_first(store):
    first = store.write(FRAME, ID, PRINT, np.eye(9, dtype=bool))
    second = store.write(FRAME, ID, PRINT[::-1], np.zeros((9, 9), dtype=bool))
    assert first != second
    assert store.read(first).any()


def test_only_whole_files_are_left(store):
    store.write(FRAME, ID, PRINT, np.eye(9, dtype=bool))
    assert [path.suffix for path in store.root.rglob("*") if path.is_file()] == [".png"]
    assert not list(store.root.rglob(".*"))


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 2, 1), dtype=bool)])
def test_what_is_no_mask_is_refused(store, wrong):
    with pytest.raises(ValueError, match="mask must be bool of shape"):
        store.write(FRAME, ID, PRINT, wrong)


@pytest.mark.parametrize("offset", [(-1, 0), (0, -1), (9, 0), (0, 9)])
def test_a_part_outside_its_frame_is_refused(store, offset):
    with pytest.raises(ValueError, match="does not lie inside"):
        store.write(FRAME, ID, PRINT, np.ones((2, 2), dtype=bool), offset=offset, frame_size=(10, 10))


def test_a_mask_that_cannot_be_read_is_a_clear_error(store):
    with pytest.raises(UserError, match="the mask cannot be read"):
        store.read("ab/12/obj_gone-00000000.png")
    (store.root / "broken.png").parent.mkdir(parents=True)
    (store.root / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UserError, match="the mask cannot be read"):
        store.read("broken.png")


def test_no_flipped_bit_and_no_cut_goes_unnoticed_and_all_are_written_anew(store):
    mask = np.eye(9, dtype=bool)
    relative = store.write(FRAME, ID, PRINT, mask)
    path = store.root / relative
    good = path.read_bytes()
    flipped = [good[:i] + bytes([good[i] ^ 1 << i % 8]) + good[i + 1 :] for i in range(len(good))]
    for spoiled in [*flipped, *(good[:length] for length in range(len(good))), good + b"x", b"GIF89a"]:
        path.write_bytes(spoiled)
        assert not store.is_intact(relative, (9, 9))
        with pytest.raises(UserError, match="the mask cannot be read"):
            store.read(relative)
        store.write(FRAME, ID, PRINT, mask)
        assert path.read_bytes() == good


def test_a_mask_of_another_size_is_written_anew(store):
    relative = store.write(FRAME, ID, PRINT, np.eye(8, dtype=bool))
    store.write(FRAME, ID, PRINT, np.eye(9, dtype=bool))
    assert store.read(relative).shape == (9, 9)


def test_a_damaged_mask_is_restored_from_its_run_lengths(store):
    relative = store.write(FRAME, ID, PRINT, np.eye(9, dtype=bool))
    rle = encode(np.eye(9, dtype=bool), 0, 0, 9, 9)
    assert not store.restore(relative, rle, (9, 9))
    (store.root / relative).write_bytes(b"")
    assert store.restore(relative, rle, (9, 9))
    np.testing.assert_array_equal(store.read(relative), np.eye(9, dtype=bool))


def test_a_path_that_leaves_the_store_is_refused(store, tmp_path):
    Image.new("1", (2, 2)).save(tmp_path / "secret.png")
    with pytest.raises(UserError, match="not a path inside the mask store"):
        store.read("../secret.png")
