"""When a picture was taken, as its EXIF block says."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from PIL import ExifTags
from PIL import Image as Pillow

_TAGS = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal),
    (ExifTags.Base.DateTimeDigitized, ExifTags.Base.SubsecTimeDigitized),
)


def exif_tags(picture: Pillow.Image) -> Mapping[int, Any]:
    """The EXIF directory of a picture; empty where it has none or one that cannot be read."""
    try:
        return picture.getexif().get_ifd(ExifTags.IFD.Exif)
    except Exception:
        # A damaged EXIF block takes nothing from the picture, and Pillow has no one error for such a block.
        return {}


def capture_time(exif: Mapping[int, Any]) -> datetime | None:
    """When the original was taken, else digitized, by the camera's clock, to the millisecond.

    Args:
        exif: the tags of the EXIF directory.

    Returns:
        Without a time zone; None where no time is stated or none that there is, such as one of zeros or spaces.
    """
    for tag, fraction in _TAGS:
        try:
            moment = datetime.strptime(_text(exif[tag])[:19], "%Y:%m:%d %H:%M:%S")
        except (KeyError, ValueError):
            continue
        digits = _text(exif.get(fraction, ""))
        # The tag holds the decimals of the second: "5" is half a second.
        milliseconds = int(digits[:3].ljust(3, "0")) if digits.isascii() and digits.isdigit() else 0
        return moment.replace(microsecond=1000 * milliseconds)
    return None


def _text(value: object) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return text.partition("\0")[0].strip()
