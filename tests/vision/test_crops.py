import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from al_dagster.vision.crops import NEUTRAL, crop_object, silhouette
from al_dagster.vision.protocols import Mask

numbers = st.floats(-40, 120)


@settings(max_examples=60)
@given(numbers, numbers, numbers, numbers)
def test_a_crop_is_a_square_wherever_its_box_lies(x1, y1, x2, y2):
    image = np.zeros((60, 80, 3), np.uint8)
    box = np.array([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)])
    crop = crop_object(image, box)
    assert crop.shape[0] == crop.shape[1] >= 1
    assert crop.dtype == np.uint8


def test_the_border_is_a_tenth_of_the_longer_side():
    assert crop_object(np.zeros((200, 200, 3), np.uint8), np.array([50, 60, 150, 100])).shape == (120, 120, 3)


def test_outside_the_image_is_neutral():
    crop = crop_object(np.zeros((50, 50, 3), np.uint8), np.array([0, 0, 50, 50]))
    assert (crop[0] == NEUTRAL).all()
    assert (crop[30, 30] == 0).all()


def test_with_a_mask_only_the_object_is_seen_and_its_silhouette_is_the_mask():
    image = np.full((60, 60, 3), NEUTRAL, np.uint8)
    pixels = np.zeros((20, 20), bool)
    pixels[5:15, 3:18] = True
    crop = crop_object(image, np.array([10, 10, 30, 30]), Mask(pixels, 10, 10, 1.0))
    assert crop.shape[0] == 18
    assert silhouette(crop).sum() == pixels.sum()


def test_a_box_wider_than_its_mask_gives_the_same_crop():
    image = np.random.default_rng(0).integers(0, 100, (80, 80, 3), dtype=np.uint8)
    pixels = np.zeros((80, 80), bool)
    pixels[30:50, 20:60] = True
    mask = Mask(pixels, 0, 0, 1.0)
    tight, wide = (crop_object(image, np.array(box), mask) for box in ([20, 30, 60, 50], [0, 0, 80, 80]))
    assert np.array_equal(tight, wide)
