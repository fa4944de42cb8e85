"""One small picture of what was found in many images: thumbnails with masks, boxes and labels, and a legend."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont, ImageOps

from al_dagster.core.fonts import covering_font
from al_dagster.media.pixels import Image

COLOURS = ("#d4163c", "#2a8a3a", "#4363d8", "#b8570c", "#911eb4", "#008080", "#9a6324", "#c21cb9", "#6b6b00", "#000075")
"""Colours of labels, in order; white text can be read on each."""

_BACKGROUND = "#26282c"
_GAP = 6
_MASK_OPACITY = 0.4
_QUALITIES = (88, 80, 70, 60, 50, 40)
_SHRINK = 0.8
_LABEL_SHARE = 0.4
_ELLIPSIS = "…"


class CroppedMask(Protocol):
    """The pixels of one object: the part of its mask that its box covers."""

    @property
    def pixels(self) -> NDArray[np.bool_]:
        """(h, w), bool."""

    @property
    def x(self) -> int:
        """Column of the left edge in the image, pixels."""

    @property
    def y(self) -> int:
        """Row of the top edge in the image, pixels."""


@dataclass(frozen=True)
class SheetItem:
    """An image and what was found in it.

    Args:
        image: (height, width, 3), uint8, RGB.
        boxes: (n, 4), x1, y1, x2, y2 in pixels.
        labels: n labels.
        masks: n masks, or none.
    """

    image: Image
    boxes: NDArray[np.floating] = field(default_factory=lambda: np.empty((0, 4)))
    labels: Sequence[str] = ()
    masks: Sequence[CroppedMask] | None = None


def contact_sheet(items: Sequence[SheetItem], *, columns: int = 4, tile: int = 260, max_bytes: int = 100_000) -> bytes:
    """A sheet of thumbnails with what was found drawn on them, as a JPEG file.

    Args:
        items: all are drawn, row by row; each label has one colour on the whole sheet.
        columns: thumbnails in a row.
        tile: side of the square that a thumbnail is fitted into, pixels.
        max_bytes: the quality is lowered, then the sheet made smaller, until it takes no more than this.

    Raises:
        ValueError: there are no items, or not even a very small sheet fits into ``max_bytes``.
    """
    if not items:
        raise ValueError("a contact sheet needs at least one image")
    sheet = _draw_sheet(items, min(columns, len(items)), tile)
    while min(sheet.size) >= 8:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            sheet.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= max_bytes:
                return buffer.getvalue()
        sheet = ImageOps.scale(sheet, _SHRINK, Pillow.Resampling.LANCZOS)
    raise ValueError(f"no contact sheet fits into {max_bytes} bytes")


def _draw_sheet(items: Sequence[SheetItem], columns: int, tile: int) -> Pillow.Image:
    counts = Counter(label for item in items for label in item.labels)
    colours = {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(sorted(counts))}
    width = columns * (tile + _GAP) + _GAP
    font = _font(counts, max(11, tile // 24))
    legend = _legend(counts, colours, width, font)
    thumbnails = [_thumbnail(item, colours, tile, font) for item in items]
    rows = [thumbnails[start : start + columns] for start in range(0, len(thumbnails), columns)]
    heights = [max(thumbnail.height for thumbnail in row) for row in rows]
    sheet = Pillow.new("RGB", (width, sum(heights) + (len(rows) + 1) * _GAP + legend.height), _BACKGROUND)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, thumbnail in enumerate(row):
            left = _GAP + column * (tile + _GAP) + (tile - thumbnail.width) // 2
            sheet.paste(thumbnail, (left, top + (height - thumbnail.height) // 2))
        top += height + _GAP
    sheet.paste(legend, (0, sheet.height - legend.height))
    return sheet


def _thumbnail(item: SheetItem, colours: dict[str, str], tile: int, font: ImageFont.FreeTypeFont) -> Pillow.Image:
    height, width = item.image.shape[:2]
    scale = min(tile / width, tile / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # An enlarged picture stays blocky, so that a picture of few pixels is seen to be one.
    kind = Pillow.Resampling.LANCZOS if scale < 1 else Pillow.Resampling.NEAREST
    picture = Pillow.fromarray(item.image).resize(size, kind, reducing_gap=2.0 if scale < 1 else None)
    for label, mask in zip(item.labels, item.masks or (), strict=False):
        _tint(picture, mask, scale, colours[label])
    draw = ImageDraw.Draw(picture)
    boxes = np.clip(np.asarray(item.boxes, dtype=np.float64).reshape(-1, 4) * scale, 0, np.tile(size, 2) - 1)
    for label, box in zip(item.labels, boxes, strict=True):
        draw.rectangle(tuple(box), outline=colours[label], width=2)
    for label, box in zip(item.labels, boxes, strict=True):
        _write_label(draw, label, box, size, colours[label], font)
    return picture


def _tint(picture: Pillow.Image, mask: CroppedMask, scale: float, colour: str) -> None:
    height, width = mask.pixels.shape
    left, top = round(mask.x * scale), round(mask.y * scale)
    right, bottom = round((mask.x + width) * scale), round((mask.y + height) * scale)
    if right <= left or bottom <= top:
        return
    opacity = np.where(mask.pixels, np.uint8(255 * _MASK_OPACITY), np.uint8(0))
    stencil = Pillow.fromarray(opacity).resize((right - left, bottom - top), Pillow.Resampling.BOX)
    picture.paste(colour, (left, top, right, bottom), stencil)


def _write_label(
    draw: ImageDraw.ImageDraw,
    label: str,
    box: NDArray[np.float64],
    size: tuple[int, int],
    colour: str,
    font: ImageFont.FreeTypeFont,
) -> None:
    text = _shortened(label, max(_LABEL_SHARE * size[0], box[2] - box[0]) - 6, font)
    width, height = round(font.getlength(text)) + 6, font.size + 4
    left = int(np.clip(box[0], 0, max(0, size[0] - width)))
    above = box[1] - height
    top = int(above if above >= 0 else min(box[1], max(0, size[1] - height)))
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    draw.text((left + 3, top + height / 2), text, fill="white", font=font, anchor="lm")


def _legend(counts: Counter[str], colours: dict[str, str], width: int, font: ImageFont.FreeTypeFont) -> Pillow.Image:
    """A strip with each label's colour and count, in as many lines as they need."""
    line, swatch = round(font.size * 1.6), round(font.size)
    places: list[tuple[int, int, str, str]] = []
    left, top = _GAP, 0
    for label, colour in colours.items():
        text = _shortened(f"{label}  {counts[label]}", width - swatch - 4 * _GAP, font)
        needed = swatch + _GAP + round(font.getlength(text)) + 3 * _GAP
        if left > _GAP and left + needed > width:
            left, top = _GAP, top + line
        places.append((left, top, text, colour))
        left += needed
    strip = Pillow.new("RGB", (width, top + line + _GAP if places else 0), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for left, top, text, colour in places:
        middle = top + line / 2
        draw.rectangle((left, middle - swatch / 2, left + swatch, middle + swatch / 2), fill=colour)
        draw.text((left + swatch + _GAP, middle), text, fill="white", font=font, anchor="lm")
    return strip


def _shortened(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + _ELLIPSIS) > width:
        text = text[:-1]
    return text + _ELLIPSIS


def _font(labels: Iterable[str], size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, or one that has more than Latin letters where the labels need it."""
    labels = list(labels)
    if not all(label.isascii() for label in labels):
        return ImageFont.truetype(covering_font([*labels, _ELLIPSIS]), size)
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType, which contact sheets need")
    return font
