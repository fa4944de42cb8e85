"""Which font of this machine can write a text: class names are in any language."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


def covering_font(texts: Iterable[str]) -> Path:
    """The file of the font that has the most of the characters of some texts; of those that have as many, a plain one.

    matplotlib's own DejaVu Sans is always there and is taken where it has them all: Latin, Greek, Cyrillic, Arabic and
    more. What no font has is drawn as a box, with one warning that says what to install.

    Args:
        texts: what is to be written.

    Example:
        >>> covering_font(["bolt", "écrou"]).name
        'DejaVuSans.ttf'
    """
    wanted = frozenset(ord(character) for text in texts for character in text if not character.isspace())
    chosen = _best(wanted)
    missing = wanted - _characters(chosen)
    if missing:
        _warn("".join(chr(code) for code in sorted(missing)[:10]))
    return chosen


@cache
def _best(wanted: frozenset[int]) -> Path:
    import matplotlib

    own = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    if wanted <= _characters(own):
        return own
    return min([own, *_system_fonts()], key=lambda path: (-len(wanted & _characters(path)), *_plainness(path)))


@cache
def _warn(characters: str) -> None:
    log.warning(
        "no font of this machine has these characters, which become boxes: install one, such as "
        "fonts-noto-cjk for Korean, Chinese and Japanese",
        characters=characters,
    )


@cache
def _system_fonts() -> list[Path]:
    from matplotlib.font_manager import findSystemFonts

    return [Path(path) for path in sorted(findSystemFonts())]


@cache
def _characters(path: Path) -> frozenset[int]:
    """The code points that a font has a glyph for; none of a file that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def _plainness(path: Path) -> tuple[int, str]:
    name = path.stem.lower()
    return sum(word in name for word in ("bold", "italic", "oblique", "mono", "serif", "light", "black", "thin")), name
