"""Names of exported images: those of the original files, made safe for any file system and unique."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

MAX_BYTES = 120
"""Of a name in UTF-8, without its extension; file systems allow 255 with it."""

_RESERVED = re.compile(r'[<>:"/\\|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_SUFFIX_LENGTH = len("_aaaaaaaaaaaa_p0000000")


def export_names(file_paths: Sequence[str], source_ids: Sequence[str], frame_idxs: Sequence[int]) -> tuple[str, ...]:
    """The names of images in an export, without extension.

    A name is that of the original file: characters that some file system refuses are replaced by ``_``, a leading dot
    too, and a long name is cut. The pages of a file after its first are marked ``_p0002`` and so on. Where two images
    would have the same name, in whatever case or Unicode form, each has the 12 characters of its source's id added.

    Args:
        file_paths: the original file of each image.
        source_ids: the source of each image; with the frame they name an image.
        frame_idxs: the place of each image in its file, from 0.

    Returns:
        As many names, no two of which are the same on any file system.
    """
    bases = [_safe(path.rpartition("/")[2]) for path in file_paths]
    pages = ["" if index == 0 else f"_p{index + 1:04d}" for index in frame_idxs]
    names = [base + page for base, page in zip(bases, pages, strict=True)]
    told_apart: set[int] = set()
    while True:
        keys = [_key(name) for name in names]
        count = Counter(keys)
        alike = {index for index, key in enumerate(keys) if count[key] > 1} - told_apart
        if not alike:
            return tuple(names)
        told_apart |= alike
        for index in alike:
            names[index] = f"{bases[index]}_{source_ids[index].rpartition('_')[2]}{pages[index]}"


def _safe(file_name: str) -> str:
    # ``pathlib`` takes ten times as long, and there may be a million names.
    stem = file_name.rpartition(".")[0] or file_name
    name = _RESERVED.sub("_", unicodedata.normalize("NFC", stem))
    if not name.isprintable():
        name = "".join(character if character.isprintable() else "_" for character in name)
    name = name.encode()[: MAX_BYTES - _SUFFIX_LENGTH].decode(errors="ignore").lstrip(" ").rstrip(" .")
    if name.startswith("."):
        name = f"_{name[1:]}"
    return f"_{name}" if not name or _DEVICES.fullmatch(name) else name


def _key(name: str) -> str:
    """What two names have in common that some file system takes for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
