"""Opening image files that anybody may have made: what is readable becomes pixels, the rest gets its sentence."""

import errno
import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import structlog
from PIL import Image as Pillow
from PIL import _imaging
from PIL.ImageFile import ImageFile as PillowFile
from tenacity import RetryCallState, retry, retry_if_exception, stop_after_attempt, wait_exponential

from al_dagster.core.errors import UnreadableFileError, UserError
from al_dagster.core.input_files import open_regular
from al_dagster.media.capture import capture_time, exif_tags
from al_dagster.media.pixels import Admit, Image, admit_at_once, opaque_rgb, orientation, require_size, upright
from al_dagster.media.png import rgb_of_png
from al_dagster.media.pnm import is_netpbm, read_netpbm

if TYPE_CHECKING:
    from al_dagster.media.tiff_pages import Place

log = structlog.get_logger(__name__)

# It warns of damage that does not hinder it, once a process and without the file's name; what hinders it is an error.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# glibc gives memory back to the system as soon as it is freed where it was asked for in pieces above 32 MiB; smaller
# ones stay with the thread that asked for them. https://pillow.readthedocs.io/en/stable/reference/block_allocator.html
_imaging.set_block_size(64 * 2**20)

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "JPEG2000", "AVIF")
"""The formats that Pillow reads. It knows more, some of which start other programs or have no signature; for TIFF and
Netpbm see ``tiff`` and ``pnm``."""

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_AVIF_BRANDS = frozenset({b"avif", b"avis", b"mif1", b"msf1"})
_PLAIN_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg"},
    "PNG": {".png"},
    "BMP": {".bmp"},
    "WEBP": {".webp"},
}
_MP_ENTRIES = 0xB002
_VIDEO = "is a video, which is not read: give its frames as images"
_HEIC = "is a HEIC image, which cannot be read: convert it to JPEG or PNG"


_TRANSIENT = frozenset(
    {
        errno.EIO,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENFILE,
        errno.EMFILE,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""What network shares, removable disks and busy machines report of a file that can be read a moment later."""

MAX_IMAGE_BYTES = 4_000_000_000
"""A larger file is not opened."""


@dataclass(frozen=True)
class ImageFile:
    """One page of an image file, as it was when it was inspected.

    Args:
        path: the file.
        sha256: of its content then, 64 hex characters.
        size_bytes: its size then; None where nobody took note.
        mtime_ns: its time of change then, in nanoseconds; None where nobody took note.
        page: of a file of several pages.
        pixels: that it decodes to, for whoever decodes ahead; 0 where nobody took note.
    """

    path: str
    sha256: str
    size_bytes: int | None = None
    mtime_ns: int | None = None
    page: int = 0
    pixels: int = 0


@dataclass(frozen=True)
class Decoded:
    """A page of an image file, decoded whole.

    Args:
        picture: upright, mode RGB.
        format: Pillow's name of the file's format.
        mode: Pillow's name of how the file stores a pixel.
        exif_orientation: 1–8, before the picture was turned upright.
        plain: any other reader sees the same pixels in the file, so that an exporter may link it as it is.
        pictures: pictures that the file shows one after the other, of which this is the first; 1 where it is the only
            one. The pages of a TIFF are not counted: each is read for itself.
        captured_at: when the camera took it, by the camera's clock; None where the file does not say.
    """

    picture: Pillow.Image
    format: str
    mode: str
    exif_orientation: int
    plain: bool
    pictures: int = 1
    captured_at: datetime | None = None

    def pixels(self) -> Image:
        """The picture as an array of shape (height, width, 3), uint8, RGB, read-only."""
        return np.asarray(self.picture)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, UnreadableFileError) and getattr(error.__cause__, "errno", None) in _TRANSIENT


def _say_that_it_is_read_again(attempt: RetryCallState) -> None:
    file = attempt.args[0]
    path = file.path if isinstance(file, ImageFile) else str(file)
    log.warning("file is read again", file_path=path, reason=attempt.outcome and str(attempt.outcome.exception()))


again_if_transient = retry(
    retry=retry_if_exception(_is_transient),
    stop=stop_after_attempt(4),
    wait=wait_exponential(0.1),
    before_sleep=_say_that_it_is_read_again,
    reraise=True,
)
"""Decorates what reads the file that is its first argument: three more times after an error of a disk or a share that
may pass, within 0.7 s."""


@again_if_transient
def read_image(path: Path | str, *, max_pixels: int) -> Image:
    """Read the first page of an image file, whatever its content is.

    JPEG, PNG, TIFF, BMP, WebP, GIF and animations (first frame), Netpbm, JPEG 2000 and AVIF are read, whatever the
    file is called. Pixels of any kind become 8-bit RGB: the range that a file states becomes 0 to 255, else the one
    that ``pixels.likely_range`` finds; what is transparent is laid on white; EXIF orientation is applied.

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


@again_if_transient
def read_file(file: ImageFile, *, max_pixels: int) -> Image:
    """Read a page of a file whose content must be the one that was inspected.

    A file of the same size and time of change is taken for unchanged; one that was only touched has its content
    compared.

    Args:
        file: what to read.
        max_pixels: an image of more pixels than this is refused before it is decoded.

    Returns:
        As ``read_image``.

    Raises:
        UnreadableFileError: the file cannot be read, or holds something else by now; the message is the reason.
    """
    with open_file(file.path) as opened:
        before = os.fstat(opened.fileno())
        if not _as_inspected(opened, file, before):
            raise UnreadableFileError("has changed since it was taken into its batch")
        try:
            image = decode(opened, suffix=Path(file.path).suffix, max_pixels=max_pixels, page=file.page).pixels()
        except UnreadableFileError:
            # Half a new file looks damaged: that it is being written to is the better reason.
            _require_unchanged(opened, before)
            raise
        _require_unchanged(opened, before)
        return image


@contextmanager
def open_file(path: Path | str) -> Iterator[BufferedReader]:
    """Open a regular file for reading; errors of the file system, also while it is open, become sentences.

    Raises:
        UnreadableFileError: it is missing, not a regular file, larger than 4 GB, or may not be read.
    """
    try:
        with open_regular(path, max_bytes=MAX_IMAGE_BYTES) as file:
            yield file
    except UnreadableFileError:
        raise
    except UserError as error:
        raise UnreadableFileError(str(error)) from None
    except OSError as error:
        raise UnreadableFileError(_file_system_reason(path, error)) from error


def decode_pages(
    file: BinaryIO, *, suffix: str, max_pixels: int, admit: Admit = admit_at_once
) -> Iterator[Decoded | UnreadableFileError]:
    """Decode an open image file page by page; one that cannot be read gives its error in its place.

    Only a TIFF has several pages, each a picture to label. The iterator keeps none of them. For the arguments see
    ``decode``.

    Raises:
        UnreadableFileError: it is no image that can be read; the message is the reason.
    """
    if not _is_tiff(_prefix(file)):
        yield decode(file, suffix=suffix, max_pixels=max_pixels, admit=admit)
        return
    from al_dagster.media.tiff_pages import page_places

    with _sentences("TIFF"):
        for place in page_places(file):
            yield _page_or_error(file, place, max_pixels, admit)


def decode(file: BinaryIO, *, suffix: str, max_pixels: int, page: int = 0, admit: Admit = admit_at_once) -> Decoded:
    """Decode a page of an open image file whole.

    Args:
        file: open for binary reading.
        suffix: the extension of its name, such as ``.jpg``.
        max_pixels: an image of more pixels than this is refused before it is decoded.
        page: its index; only TIFF has more than one.
        admit: is given the page's pixels before it is decoded, and may wait.

    Raises:
        UnreadableFileError: it is no image that can be read; the message is the reason.
    """
    prefix = _prefix(file)
    if _is_tiff(prefix):
        from al_dagster.media.tiff_pages import page_place

        with _sentences("TIFF"):
            place = page_place(file, page)
        return _decode_tiff(file, place, max_pixels, admit)
    if page:
        raise UnreadableFileError(f"has no page {page + 1}")
    if is_netpbm(prefix):
        with _sentences("PNM"):
            image = read_netpbm(file, max_pixels, admit)
            return Decoded(image.picture, "PPM", image.mode, 1, plain=False, pictures=image.pictures)
    return _decode_with_pillow(file, prefix, suffix.lower(), max_pixels, admit)


def _prefix(file: BinaryIO) -> bytes:
    """The first bytes of an open file that may be an image."""
    file.seek(0)
    prefix = file.read(16)
    if not prefix:
        raise UnreadableFileError("is empty (0 bytes)")
    if reason := _container_reason(prefix):
        raise UnreadableFileError(reason)
    return prefix


def _is_tiff(prefix: bytes) -> bool:
    """Whether a file that begins so is a TIFF or a BigTIFF."""
    return prefix[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _page_or_error(file: BinaryIO, place: "Place", max_pixels: int, admit: Admit) -> Decoded | UnreadableFileError:
    try:
        return _decode_tiff(file, place, max_pixels, admit)
    except UnreadableFileError as error:
        return error


def _decode_tiff(file: BinaryIO, place: "Place", max_pixels: int, admit: Admit) -> Decoded:
    # Here, since tifffile takes a while to load and few commands read a TIFF.
    from al_dagster.media.tiff import read_page

    with _sentences("TIFF"):
        found = read_page(file, place, max_pixels, admit)
        picture = upright(found.picture, found.orientation)
        moment = capture_time(found.exif)
        return Decoded(picture, "TIFF", found.mode, found.orientation, plain=False, captured_at=moment)


def _decode_with_pillow(file: BinaryIO, prefix: bytes, suffix: str, max_pixels: int, admit: Admit) -> Decoded:
    picture = _open_picture(file, prefix, suffix)
    require_size(*picture.size, max_pixels)
    admit(picture.width * picture.height)
    name, mode = picture.format or "", picture.mode
    with _sentences(name):
        plain = suffix in _PLAIN_SUFFIXES.get(name, ()) and _is_plain(picture)
        pictures = _count_pictures(picture)
        if name == "PNG":
            shown = rgb_of_png(file, picture)
        else:
            picture.load()
            shown = opaque_rgb(picture)
        turned = orientation(picture)
        return Decoded(
            upright(shown, turned),
            name,
            mode,
            turned,
            plain and turned == 1,
            pictures,
            capture_time(exif_tags(picture)),
        )


@contextmanager
def _sentences(name: str) -> Iterator[None]:
    """Turn whatever a damaged file drives a decoder to into a reason."""
    try:
        yield
    except UnreadableFileError:
        raise
    except MemoryError:
        raise UnreadableFileError(f"is a {name} image that does not fit in memory") from None
    except Exception as error:
        # Pillow's decoders raise whatever a damaged file drives them to: OSError, SyntaxError, ValueError, IndexError…
        _raise_file_system_error(error)
        raise UnreadableFileError(_decoding_reason(name, error)) from error


def _require_unchanged(opened: BufferedReader, before: os.stat_result) -> None:
    after = os.fstat(opened.fileno())
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UnreadableFileError("changed while it was being read")


def _as_inspected(opened: BufferedReader, file: ImageFile, status: os.stat_result) -> bool:
    if (status.st_size, status.st_mtime_ns) == (file.size_bytes, file.mtime_ns):
        return True
    if file.size_bytes is not None and status.st_size != file.size_bytes:
        return False
    opened.seek(0)
    return hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256


def _open_picture(file: BinaryIO, prefix: bytes, suffix: str) -> PillowFile:
    """Read the header only.

    ``PIL.Image.open`` is not used: it compares the size with a limit that is global to the process and would refuse,
    or warn of, images that the caller allows.
    """
    Pillow.init()
    for name in FORMATS:
        factory, accepts = Pillow.OPEN.get(name, (None, None))
        if factory is None or accepts is None or accepts(prefix) is not True:
            continue
        with _sentences(name):
            file.seek(0)
            return factory(file, "")
    if suffix in VIDEO_SUFFIXES:
        raise UnreadableFileError(_VIDEO)
    if suffix in (".heic", ".heif"):
        raise UnreadableFileError(_HEIC)
    raise UnreadableFileError(
        "is no image of a kind that is read: JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000, AVIF and PNM"
    )


def _count_pictures(picture: PillowFile) -> int:
    """The frames of an animation and the pictures of an MPO; previews are not counted."""
    if picture.format == "MPO":
        entries = getattr(picture, "mpinfo", {}).get(_MP_ENTRIES, [])
        return max(1, sum("Thumbnail" not in str(entry["Attribute"]["MPType"]) for entry in entries))
    if picture.format != "GIF":
        return int(getattr(picture, "n_frames", 1))
    try:
        return int(getattr(picture, "n_frames", 1))
    finally:
        picture.seek(0)


def _container_reason(prefix: bytes) -> str | None:
    brand = prefix[8:12]
    if prefix[4:8] == b"ftyp":
        if brand in _HEIC_BRANDS:
            return _HEIC
        return None if brand in _AVIF_BRANDS else _VIDEO
    if (prefix.startswith(b"RIFF") and brand == b"AVI ") or prefix.startswith(b"\x1a\x45\xdf\xa3"):
        return _VIDEO
    return None


def _is_plain(picture: PillowFile) -> bool:
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
