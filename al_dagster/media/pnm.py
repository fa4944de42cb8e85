"""The Netpbm family: PBM, PGM, PPM, PAM and PFM, plain and binary, of every stated maximum."""

import re
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from al_dagster.core.errors import UnreadableFileError
from al_dagster.media.pixels import Admit, likely_range, require_size, rgb, scaled

_CHANNELS = {b"P1": 1, b"P2": 1, b"P3": 3, b"P4": 1, b"P5": 1, b"P6": 3, b"Pf": 1, b"PF": 3}
_TUPLES = {
    "": (1, 3),
    "BLACKANDWHITE": (1,),
    "GRAYSCALE": (1,),
    "RGB": (3,),
    "BLACKANDWHITE_ALPHA": (2,),
    "GRAYSCALE_ALPHA": (2,),
    "RGB_ALPHA": (4,),
}
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_TOKEN = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*([^\s#]+)")
_COMMENT = re.compile(rb"#[^\r\n]*")
_TRUNCATED = "is truncated: the PNM data ends too early"


class _Header(NamedTuple):
    magic: bytes
    width: int
    height: int
    channels: int
    maximum: float
    end: int


class NetpbmImage(NamedTuple):
    """A decoded file of the family.

    Attributes:
        picture: the first picture, mode RGB.
        mode: how it is stored, as Pillow would name it.
        pictures: so many are in the file; plain formats hold one.
    """

    picture: Pillow.Image
    mode: str
    pictures: int


def is_netpbm(prefix: bytes) -> bool:
    """Whether a file that begins so, with 3 bytes or more, is of the family."""
    return (prefix[:2] in _CHANNELS or prefix[:2] == b"P7") and prefix[2:3] in b" \t\r\n#" and len(prefix) > 2


def read_netpbm(file: BinaryIO, max_pixels: int, admit: Admit) -> NetpbmImage:
    """Decode an open file of the family.

    Args:
        file: open for binary reading.
        max_pixels: a picture of more pixels than this is refused before it is decoded.
        admit: is given the picture's pixels before it is decoded.

    Raises:
        UnreadableFileError: it is damaged or too large; the message is the reason.
    """
    file.seek(0)
    content = file.read(2**16)
    header = _header(content, 0)
    require_size(header.width, header.height, max_pixels)
    admit(header.width * header.height)
    content += file.read()
    values = _samples(content, header)
    colours = values if header.channels in (1, 3) else values[..., :-1]
    alpha = None if colours is values else scaled(values[..., -1], 0, header.maximum)
    if header.magic in (b"Pf", b"PF"):
        eight = scaled(colours, *likely_range(colours))
    else:
        eight = scaled(colours, 0, header.maximum)
    picture = rgb(eight[..., 0] if eight.shape[2] == 1 else eight, alpha)
    mode = "1" if header.magic in (b"P1", b"P4") else "F" if header.magic == b"Pf" else _MODES[header.channels]
    return NetpbmImage(picture, mode, _count(content, header))


def _header(content: bytes, start: int) -> _Header:
    magic = content[start : start + 2]
    if magic == b"P7":
        return _pam_header(content, start)
    names = 2 if magic in (b"P1", b"P4") else 3
    fields, end = [], start + 2
    for _ in range(names):
        found = _TOKEN.match(content, end)
        if found is None:
            raise UnreadableFileError(_TRUNCATED)
        fields.append(found[1])
        end = found.end()
    try:
        width, height = int(fields[0]), int(fields[1])
        maximum = 1.0 if names == 2 else float(fields[2]) if magic in (b"Pf", b"PF") else int(fields[2])
    except ValueError:
        raise UnreadableFileError("is a PNM file that cannot be read: its header is damaged") from None
    is_float = magic in (b"Pf", b"PF")
    return _checked(_Header(magic, width, height, _CHANNELS[magic], maximum, end + 1), is_float)


def _pam_header(content: bytes, start: int) -> _Header:
    text, found, _ = content[start:].partition(b"ENDHDR\n")
    if not found:
        raise UnreadableFileError(_TRUNCATED)
    fields: dict[str, str] = {}
    for line in text.decode("latin-1").splitlines()[1:]:
        name, _, value = line.strip().partition(" ")
        if name and not name.startswith("#"):
            fields[name] = value.strip()
    try:
        width, height, channels, maximum = (int(fields[name]) for name in ("WIDTH", "HEIGHT", "DEPTH", "MAXVAL"))
    except (KeyError, ValueError):
        raise UnreadableFileError("is a PAM file that cannot be read: its header is damaged") from None
    kind = fields.get("TUPLTYPE", "")
    if channels not in _TUPLES.get(kind, ()):
        raise UnreadableFileError(f"is a PAM file of {channels} channels of the type {kind!r}, which is no picture")
    return _checked(_Header(b"P7", width, height, channels, maximum, start + len(text) + len(found)), False)


def _checked(header: _Header, is_float: bool) -> _Header:
    if header.width < 1 or header.height < 1:
        raise UnreadableFileError("is a PNM file that cannot be read: it has no pixels")
    if not is_float and not 1 <= header.maximum <= 65535:
        raise UnreadableFileError(f"is a PNM file of the greatest value {header.maximum}; 1 to 65535 are allowed")
    if is_float and not (np.isfinite(header.maximum) and header.maximum):
        raise UnreadableFileError("is a PFM file that cannot be read: its scale is no number")
    return header


def _samples(content: bytes, header: _Header) -> NDArray[np.generic]:
    """The values of the first picture, (height, width, channels)."""
    shape = (header.height, header.width, header.channels)
    count = header.height * header.width * header.channels
    body = memoryview(content)[header.end : header.end + _size(header)]
    if header.magic == b"P1":
        digits = np.frombuffer(_COMMENT.sub(b"", content[header.end - 1 :]), dtype=np.uint8)
        digits = digits[(digits == ord("0")) | (digits == ord("1"))]
        return 1 - (_whole(digits, count)[:count] - ord("0")).reshape(shape)
    if header.magic in (b"P2", b"P3"):
        try:
            words = _COMMENT.sub(b"", content[header.end - 1 :]).split(maxsplit=count)[:count]
            values = np.array(words, dtype="S").astype(np.int64)
        except ValueError:
            raise UnreadableFileError("is a PNM file that cannot be read: a value is no number") from None
        return _whole(values, count).clip(0, int(header.maximum)).astype(np.uint16).reshape(shape)
    if len(body) < _size(header):
        raise UnreadableFileError(_TRUNCATED)
    if header.magic == b"P4":
        bits = np.unpackbits(np.frombuffer(body, np.uint8).reshape(header.height, -1), axis=1)
        return 1 - bits[:, : header.width, None]
    if header.magic in (b"Pf", b"PF"):
        floats = np.frombuffer(body, dtype="<f4" if header.maximum < 0 else ">f4").reshape(shape)
        return floats[::-1].astype(np.float32)
    return np.frombuffer(body, np.uint8 if header.maximum < 256 else ">u2").astype(np.uint16).reshape(shape)


def _whole(values: NDArray[np.generic], count: int) -> NDArray[np.generic]:
    if len(values) < count:
        raise UnreadableFileError(_TRUNCATED)
    return values


def _size(header: _Header) -> int:
    """Bytes of the picture after a binary header."""
    if header.magic == b"P4":
        return header.height * -(-header.width // 8)
    width = 4 if header.magic in (b"Pf", b"PF") else 1 if header.maximum < 256 else 2
    return header.height * header.width * header.channels * width


def _count(content: bytes, header: _Header) -> int:
    count = 1
    while header.magic in (b"P4", b"P5", b"P6", b"P7"):
        start = header.end + _size(header)
        if not is_netpbm(content[start : start + 3]):
            break
        try:
            header = _header(content, start)
        except UnreadableFileError:
            break
        count += 1
    return count
