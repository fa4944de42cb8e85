import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_masks

from al_dagster.core import rle

sizes = st.integers(1, 40)
masks = st.tuples(sizes, sizes).flatmap(lambda shape: arrays(bool, shape))
margins = st.integers(0, 30)


def full_mask(pixels: np.ndarray, x: int, y: int, right: int, bottom: int) -> np.ndarray:
    return np.pad(pixels, ((y, bottom), (x, right)))


@given(masks, margins, margins, margins, margins)
def test_a_part_is_encoded_as_pycocotools_encodes_the_whole_image(pixels, x, y, right, bottom):
    full = full_mask(pixels, x, y, right, bottom)
    height, width = full.shape

    counts = rle.encode(pixels, x, y, width, height)

    assert counts == coco_masks.encode(np.asfortranarray(full.astype(np.uint8)))["counts"].decode()
    assert rle.area(counts) == full.sum()


@given(masks, margins, margins, margins, margins)
def test_a_mask_comes_back_whole_and_as_the_part_that_holds_it(pixels, x, y, right, bottom):
    full = full_mask(pixels, x, y, right, bottom)
    height, width = full.shape
    counts = rle.encode(pixels, x, y, width, height)

    part, left, top = rle.decode_part(counts, width, height)

    assert np.array_equal(rle.decode(counts, width, height), full)
    assert np.array_equal(full[top : top + part.shape[0], left : left + part.shape[1]], part)
    assert part.sum() == full.sum()
    if full.any():
        assert part[0].any()
        assert part[-1].any()
        assert part[:, 0].any()
        assert part[:, -1].any()


@pytest.mark.parametrize("filled", [False, True])
def test_an_image_of_ten_thousand_pixels_a_side_that_is_empty_or_full_comes_back(filled):
    side = 10_000
    pixels = np.full((side, side), filled)
    counts = rle.encode(pixels, 0, 0, side, side)
    assert rle.area(counts) == pixels.sum()
    assert np.array_equal(rle.decode(counts, side, side), pixels)


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (0, -1), (6, 0), (0, 6)])
def test_a_part_that_leaves_its_image_is_refused(x, y):
    with pytest.raises(ValueError, match="does not lie inside a 9×9 image"):
        rle.encode(np.ones((4, 4), dtype=bool), x, y, 9, 9)


@pytest.mark.parametrize("counts", ["", "d3", "0 0", "é", "P", "0100000000000000", "oooooooooooooooooooooo0"])
def test_text_that_is_no_mask_of_the_image_is_refused(counts):
    with pytest.raises(ValueError, match="run lengths"):
        rle.decode(counts, 9, 9)
