"""Opening image files that anybody may have made: what is readable becomes pixels, the rest gets its sentence."""

import errno
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image as Pillow
from PIL import ImageFile

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.pixels import Image, orientation, upright_rgb

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
"""The formats that are read. Pillow knows more, some of which start other programs or have no signature."""

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_AVIF_BRANDS = frozenset({b"avif", b"avis", b"mif1", b"msf1"})
_PLAIN_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg"},
    "PNG": {".png"},
    "BMP": {".bmp"},
    "WEBP": {".webp"},
}
_VIDEO = "video: not yet"
_HEIC = "is a HEIC image, which cannot be read: convert it to JPEG or PNG"


@dataclass(frozen=True)
class Decoded:
    """An image file, decoded whole.

    Args:
        picture: upright, mode RGB.
        format: Pillow's name of the file's format.
        mode: Pillow's name of how the file stores a pixel.
        exif_orientation: 1–8, before the picture was turned upright.
        plain: any other reader sees the same pixels in the file, so that an exporter may link it as it is.
    """

    picture: Pillow.Image
    format: str
    mode: str
    exif_orientation: int
    plain: bool

    def pixels(self) -> Image:
        """The picture as an array of shape (height, width, 3), uint8, RGB, read-only."""
        return np.asarray(self.picture)


def read_image(path: Path | str, *, max_pixels: int) -> Image:
    """Read an image file.

    JPEG, PNG, TIFF, BMP, WebP, GIF and animations (first frame), PNM, JPEG 2000 and AVIF are read, whatever the file
    is called. Pixels of any kind become 8-bit RGB as ``upright_rgb`` says; EXIF orientation is applied.

    Args:
        path: the file.
        max_pixels: an image of more pixels than this is refused before it is decoded.

    Returns:
        (height, width, 3), uint8, RGB, upright, read-only: images are shared between stages.

    Raises:
        UnreadableFileError: the file cannot be read; the message is the reason, without the file's name.
    """
    with open_file(path) as file:
        return decode(file, suffix=Path(path).suffix, max_pixels=max_pixels).pixels()


@contextmanager
def open_file(path: Path | str) -> Iterator[BufferedReader]:
    """Open a regular file for reading; errors of the file system, also while it is open, become sentences.

    Raises:
        UnreadableFileError: it is missing, not a regular file, or may not be read.
    """
    try:
        # A named pipe would block the open until somebody writes to it.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise UnreadableFileError("is not a regular file")
        with Path(path).open("rb") as file:
            yield file
    except OSError as error:
        raise UnreadableFileError(_file_system_reason(path, error)) from error


def decode(file: BinaryIO, *, suffix: str, max_pixels: int) -> Decoded:
    """Decode an open image file whole.

    Args:
        file: open for binary reading.
        suffix: the extension of its name, such as ``.jpg``.
        max_pixels: an image of more pixels than this is refused before it is decoded.

    Raises:
        UnreadableFileError: it is no image that can be read; the message is the reason.
    """
    picture = _open_picture(file, suffix.lower())
    width, height = picture.size
    if width * height > max_pixels:
        raise UnreadableFileError(
            f"decodes to {width * height / 1e6:.4g} megapixels; the limit is {max_pixels / 1e6:.4g} "
            "(AL_MAX_IMAGE_PIXELS)"
        )
    name, mode = picture.format or "", picture.mode
    try:
        plain = suffix.lower() in _PLAIN_SUFFIXES.get(name, ()) and _is_plain(picture)
        # Pillow turns a TIFF upright while loading it, and forgets that it lay otherwise.
        turned = orientation(picture) if name == "TIFF" else None
        picture.load()
        turned = turned or orientation(picture)
        return Decoded(upright_rgb(picture), name, mode, turned, plain and turned == 1)
    except MemoryError:
        raise UnreadableFileError(f"does not fit in memory: {width} × {height} pixels") from None
    except Exception as error:
        # Pillow's decoders raise whatever a damaged file drives them to: OSError, SyntaxError, ValueError, IndexError…
        _raise_file_system_error(error)
        raise UnreadableFileError(_decoding_reason(name, error)) from error


def _open_picture(file: BinaryIO, suffix: str) -> ImageFile.ImageFile:
    """Read the header only.

    ``PIL.Image.open`` is not used: it compares the size with a limit that is global to the process and would refuse,
    or warn of, images that the caller allows.
    """
    file.seek(0)
    prefix = file.read(16)
    if not prefix:
        raise UnreadableFileError("is empty (0 bytes)")
    if reason := _container_reason(prefix):
        raise UnreadableFileError(reason)
    Pillow.init()
    for name in FORMATS:
        factory, accepts = Pillow.OPEN.get(name, (None, None))
        if factory is None or accepts is None or accepts(prefix) is not True:
            continue
        try:
            file.seek(0)
            return factory(file, "")
        except Exception as error:
            _raise_file_system_error(error)
            raise UnreadableFileError(_decoding_reason(name, error)) from error
    if suffix in VIDEO_SUFFIXES:
        raise UnreadableFileError(_VIDEO)
    if suffix in (".heic", ".heif"):
        raise UnreadableFileError(_HEIC)
    raise UnreadableFileError("is not an image that can be read")


def _container_reason(prefix: bytes) -> str | None:
    brand = prefix[8:12]
    if prefix[4:8] == b"ftyp":
        if brand in _HEIC_BRANDS:
            return _HEIC
        return None if brand in _AVIF_BRANDS else _VIDEO
    if (prefix.startswith(b"RIFF") and brand == b"AVI ") or prefix.startswith(b"\x1a\x45\xdf\xa3"):
        return _VIDEO
    return None


def _is_plain(picture: ImageFile.ImageFile) -> bool:
    deep = any(";16" in str(tile.args) for tile in picture.tile)
    animated = getattr(picture, "is_animated", False)
    return picture.mode in ("RGB", "L") and not (deep or animated or picture.has_transparency_data)


def _raise_file_system_error(error: Exception) -> None:
    """Let an error of the disk pass to ``open_file``; an OSError of Pillow's own has no number."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _decoding_reason(name: str, error: Exception) -> str:
    if isinstance(error, Pillow.DecompressionBombError):
        return f"is a {name} image of more pixels than can be read safely"
    detail = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, EOFError) or "truncated" in detail.lower():
        return f"is truncated: the {name} data ends too early"
    return f"is a {name} file that cannot be read: {detail[:200]}"


def _file_system_reason(path: Path | str, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "is a link that leads in a circle"
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "is a link to a file that does not exist" if Path(path).is_symlink() else "has vanished"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    return f"cannot be read: {(error.strerror or str(error)).lower()}"
