import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from al_dagster.vision.mask_cleaning import HOLE_SHARE, SPECK_SHARE, clean_mask

any_masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24))
blotches = st.builds(
    lambda seed, scale, level: (
        cv2.resize(np.random.default_rng(seed).random((12, 12)).astype(np.float32), (12 * scale, 12 * scale)) > level
    ),
    st.integers(0, 2**16),
    st.integers(1, 6),
    st.floats(0.2, 0.8),
)


@pytest.fixture
def disc():
    mask = np.zeros((100, 120), np.uint8)
    cv2.circle(mask, (50, 50), 30, 1, -1)
    return mask.astype(bool)


@settings(max_examples=150)
@given(any_masks | blotches)
def test_cleaning_a_clean_mask_changes_nothing(mask):
    once = clean_mask(mask)
    assert np.array_equal(clean_mask(once), once)


@settings(max_examples=150)
@given(any_masks | blotches)
def test_a_mask_with_pixels_stays_one_and_within_the_box_around_them(mask):
    before = mask.copy()
    cleaned = clean_mask(mask)
    assert np.array_equal(mask, before)
    assert cleaned.shape == mask.shape
    assert cleaned.any() == mask.any()
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size:
        outside = np.ones(mask.shape, bool)
        outside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = False
        assert not (cleaned & outside).any()


def test_specks_go_and_small_holes_are_filled(disc):
    dirty = disc.copy()
    dirty[48:52, 48:52] = False
    dirty[5:8, 100:104] = True
    assert np.array_equal(clean_mask(dirty), disc)


def test_a_second_part_that_is_no_speck_and_a_hole_that_is_no_small_one_stay(disc):
    mask = disc.copy()
    area = disc.sum()
    side = int(np.ceil(np.sqrt(HOLE_SHARE * area))) + 2
    mask[50 : 50 + side, 50 : 50 + side] = False
    tall = int(np.ceil(1.2 * SPECK_SHARE * area / 10))
    mask[10 : 10 + tall, 95:105] = True
    assert np.array_equal(clean_mask(mask), mask)


def test_a_bay_that_is_open_towards_the_edge_of_the_crop_is_no_hole():
    mask = np.ones((40, 40), bool)
    mask[:3, 20] = False
    assert np.array_equal(clean_mask(mask), mask)


def test_a_mask_of_specks_keeps_its_largest():
    mask = np.zeros((60, 60), bool)
    mask[::4, ::4] = True
    mask[20:22, 21] = True
    cleaned = clean_mask(mask)
    assert cleaned.sum() == 3
    assert cleaned[20:22, 20:22].sum() == 3
