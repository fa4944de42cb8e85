import cv2
import numpy as np
import pytest

from al_dagster.vision.regions import split_by_colour


@pytest.fixture
def bar_on_disc():
    """A yellow bar that lies across a grey disc, and the pixels of both: (160, 200)."""
    image = np.full((160, 200, 3), (60, 90, 120), np.uint8)
    cv2.circle(image, (90, 80), 40, (170, 172, 176), -1)
    cv2.rectangle(image, (110, 66), (180, 94), (210, 170, 40), -1)
    return image, (image != (60, 90, 120)).any(axis=2).astype(np.uint8)


def test_things_of_two_colours_are_told_apart(bar_on_disc):
    image, objects = bar_on_disc
    parts = split_by_colour(image, objects)
    bar = (image == (210, 170, 40)).all(axis=2)
    disc = (objects > 0) & ~bar
    for truth in (bar, disc):
        shares = [((parts == part) & truth).sum() / ((parts == part) | truth).sum() for part in range(1, 3)]
        assert max(shares) > 0.9
    assert parts.max() == 2
    assert not parts[objects == 0].any()


def test_splitting_by_colour_gives_the_same_parts_again(bar_on_disc):
    first, second = split_by_colour(*bar_on_disc), split_by_colour(*bar_on_disc)
    assert np.array_equal(first, second)
