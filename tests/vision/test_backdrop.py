import numpy as np
import pytest

from al_dagster.vision.backdrop import fit_surface


def test_where_cells_crowd_the_slide_the_surface_is_still_the_slide(blood_cells):
    image, cells = blood_cells(0.85)
    assert 0.5 < cells.mean() < 0.6
    surface = fit_surface(image)
    assert surface.crowded
    colour = surface.difference(image).colour
    assert np.median(colour[~cells]) < 1.5
    assert np.percentile(colour[cells], 25) > 4


@pytest.mark.parametrize("diameter", [0.3, 0.6])
def test_a_slide_with_room_is_not_crowded(diameter, blood_cells):
    image, _ = blood_cells(diameter)
    assert not fit_surface(image).crowded


def test_a_table_with_two_things_is_not_crowded(tabletop):
    assert not fit_surface(tabletop).crowded


def test_a_part_of_the_image_differs_from_the_surface_as_it_does_in_the_whole(blood_cells):
    image, _ = blood_cells(0.85)
    surface = fit_surface(image)
    whole = surface.difference(image).darkening[60:180, 80:240]
    part = surface.difference(image[60:180, 80:240], (80 / 320, 60 / 240, 240 / 320, 180 / 240)).darkening
    assert np.abs(whole - part).max() < 0.01
