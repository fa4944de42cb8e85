import io
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageColor

from al_dagster.media.contact_sheet import COLOURS, SheetItem, contact_sheet


@dataclass
class Patch:
    pixels: NDArray[np.bool_]
    x: int
    y: int


def opened(content: bytes) -> NDArray[np.int_]:
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture.convert("RGB")).astype(int)


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def test_boxes_masks_and_legend_take_the_colour_of_their_label():
    boxes = np.array([[20, 60, 80, 140], [120, 60, 180, 140]], dtype=float)
    masks = [Patch(np.ones((80, 60), dtype=bool), 20, 60), Patch(np.ones((80, 60), dtype=bool), 120, 60)]
    sheet = opened(contact_sheet([SheetItem(grey(200, 200), boxes, ["bolt", "nut"], masks)], columns=1, tile=200))
    bolt, nut = (np.array(ImageColor.getrgb(colour)) for colour in COLOURS[:2])
    border = 6
    np.testing.assert_allclose(sheet[border + 100, border + 50], 0.6 * 128 + 0.4 * bolt, atol=12)
    np.testing.assert_allclose(sheet[border + 100, border + 150], 0.6 * 128 + 0.4 * nut, atol=12)
    np.testing.assert_allclose(sheet[border + 20, border + 100], 128, atol=6)
    legend = sheet[206 + 6 :]
    for colour in (bolt, nut):
        assert (np.abs(legend - colour).max(axis=2) < 30).sum() > 40


def test_a_mask_tints_only_its_pixels():
    pixels = np.zeros((100, 100), dtype=bool)
    pixels[:, :50] = True
    item = SheetItem(grey(100, 100), np.array([[0, 0, 100, 100]]), ["a"], [Patch(pixels, 0, 0)])
    sheet = opened(contact_sheet([item], columns=1, tile=200))
    assert np.abs(sheet[6 + 150, 6 + 60] - 128).max() > 20
    assert np.abs(sheet[6 + 150, 6 + 140] - 128).max() < 6


def test_thumbnails_keep_their_proportions():
    sheet = opened(contact_sheet([SheetItem(np.full((50, 100, 3), 255, dtype=np.uint8))], columns=1, tile=200))
    bright = (sheet > 200).all(axis=2)
    assert abs(int(bright.any(axis=0).sum()) - 200) <= 2
    assert abs(int(bright.any(axis=1).sum()) - 100) <= 2


@pytest.mark.parametrize("max_bytes", [100_000, 20_000, 3_000])
def test_the_sheet_never_takes_more_than_its_bytes(max_bytes):
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    items = [SheetItem(noise, np.array([[10, 10, 90, 90]]), [f"class {index}"]) for index in range(12)]
    content = contact_sheet(items, max_bytes=max_bytes)
    assert len(content) <= max_bytes
    opened(content)


@pytest.mark.parametrize("shape", [(1, 1), (10, 20_000), (20_000, 10)])
def test_extreme_images_are_drawn(shape):
    height, width = shape
    boxes = np.array([[0, 0, width, height], [-5, -5, width + 9, 0.2]])
    masks = [Patch(np.ones((height, width), dtype=bool), 0, 0), Patch(np.ones((1, 1), dtype=bool), 0, 0)]
    opened(contact_sheet([SheetItem(grey(*shape), boxes, ["a" * 300, "new\nline"], masks)], tile=100))


def test_labels_in_other_scripts_and_many_labels_are_drawn():
    labels = ["나사", "écrou", "шайба", *(f"class number {index}" for index in range(30))]
    boxes = np.tile([[10, 10, 40, 40]], (len(labels), 1))
    few = opened(contact_sheet([SheetItem(grey(100, 100), boxes[:2], labels[:2])]))
    many = opened(contact_sheet([SheetItem(grey(100, 100), boxes, labels)]))
    assert many.shape[0] > few.shape[0] + 100


def test_an_image_without_objects_needs_no_legend():
    assert opened(contact_sheet([SheetItem(grey(100, 100))], columns=1, tile=100)).shape == (112, 112, 3)


def test_as_many_rows_as_the_images_need():
    items = [SheetItem(grey(60, 80))] * 7
    assert opened(contact_sheet(items, columns=3, tile=100)).shape == (3 * 81 + 6, 3 * 106 + 6, 3)


def test_a_row_is_as_high_as_its_highest_image():
    items = [SheetItem(grey(60, 80)), SheetItem(grey(80, 60)), SheetItem(grey(40, 80))]
    assert opened(contact_sheet(items, columns=2, tile=100)).shape == (106 + 56 + 6, 2 * 106 + 6, 3)


def test_no_images_or_no_room_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([])
    with pytest.raises(ValueError, match="fits into 10 bytes"):
        contact_sheet([SheetItem(grey(50, 50))], max_bytes=10)


def test_labels_and_boxes_must_be_as_many():
    with pytest.raises(ValueError, match="zip"):
        contact_sheet([SheetItem(grey(50, 50), np.array([[0, 0, 5, 5]]), [])])
