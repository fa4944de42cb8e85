"""Text that comes from outside, such as names of files and classes, made fit to be shown."""

import difflib
import re
from collections.abc import Iterable

# C0 and C1 control characters, line separators, marks that turn the direction of writing, and lone surrogates.
_OTHERS = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE = re.compile(f"[\x00-\x1f{_OTHERS}]")
_UNSAFE_IN_JSON = re.compile(f"[{_OTHERS}]")
_ALIKE = 0.7
"""Share of characters that names must have in common, in order, to be taken for one another."""
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """A text in one line, with whatever would move the cursor, colour a terminal or break an encoding written out."""
    return _UNSAFE.sub(_written_out, text)


def printable_json(document: str) -> str:
    """A JSON document, in which only what JSON lets stand, fit for a terminal and any encoding; its values stay."""
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that somebody may have meant by one that is not known, or None; capitals do not count.

    Example:
        >>> nearest("Person", ["face", "person"])
        'person'
    """
    by_folded = {other.casefold(): other for other in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=_ALIKE)
    return by_folded[found[0]] if found else None


def did_you_mean(names: Iterable[str], known: Iterable[str]) -> str:
    """The end of a sentence about names that are not known: those that may have been meant; empty if none is like."""
    known = list(known)
    meant = [other for name in names if (other := nearest(name, known)) is not None]
    return f"; did you mean {', '.join(map(repr, dict.fromkeys(meant)))}?" if meant else ""


def _written_out(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
