"""Ids: a prefix and 12 characters of base32, derived from content: the same thing has the same id everywhere."""

import base64
import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

ID_LENGTH = 12
_UNFIT = re.compile(r"\.{3,}|[^\w.-]")
_ESCAPES = re.compile("(?:~[0-9a-f]{2})+")


def digest(*parts: object) -> str:
    """12 lowercase base32 characters of the SHA-256 of the parts, joined by a separator that no part can contain."""
    joined = "\x1f".join(str(part) for part in parts)
    return encode(hashlib.sha256(joined.encode()).digest())


def encode(raw: bytes) -> str:
    """The first 12 characters of the bytes in lowercase base32 (RFC 4648)."""
    return base64.b32encode(raw).decode().lower()[:ID_LENGTH]


def source_id(sha256_hex: str) -> str:
    """The id of a file with this SHA-256: the same bytes are the same source."""
    return f"src_{encode(bytes.fromhex(sha256_hex))}"


def frame_id(source: str, frame_idx: int) -> str:
    """The id of a frame of a source; an image is its own frame 0."""
    return f"frm_{digest(source, frame_idx)}"


def object_id(project_id: str, source: str, frame_idx: int, model_id: str, box_xywh: Sequence[float]) -> str:
    """The id of the object that a model found in a box (x, y, w, h in pixels, compared to a tenth of a pixel)."""
    # Adding 0.0 turns -0.0 into 0.0, which is the same place.
    tenths = (f"{round(float(value), 1) + 0.0:.1f}" for value in box_xywh)
    return f"obj_{digest(project_id, source, frame_idx, model_id, *tenths)}"


def dataset_id(name: str, content_hash: str) -> str:
    """The id of a frozen selection: the same name and content are the same dataset version."""
    return f"ds_{digest(name, content_hash)}"


def track_id(source: str, category: str, first_object: str) -> str:
    """The id of the track of one object through a video."""
    return f"trk_{digest(source, category, first_object)}"


def batch_key(project_id: str, now: datetime | None = None) -> str:
    """A new batch partition key: ``project--YYYYmmddTHHMMSS-xxxx`` in UTC, of the project's slug."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"{project_slug(project_id)}--{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def batch_project(key: str) -> str:
    """The project of a batch partition key."""
    return slug_project(key.rpartition("--")[0])


def project_slug(project_id: str) -> str:
    """The name of a project as it stands in partition keys: letters and digits of any script, ``_``, ``-`` and ``.``.

    The UTF-8 bytes of any other character are written as ``~`` and two hexadecimal digits, and so are three dots in a
    row, which for Dagster name a range.

    Example:
        >>> project_slug("bolts M8")
        'bolts~20M8'
    """
    return _UNFIT.sub(lambda found: "".join(f"~{byte:02x}" for byte in found[0].encode()), project_id)


def slug_project(slug: str) -> str:
    """The project that a slug stands for."""
    return _ESCAPES.sub(lambda found: bytes.fromhex(found[0].replace("~", "")).decode(), slug)
