"""Text that comes from outside, such as names of files and classes, made fit to be shown."""

import re

# C0 and C1 control characters, line separators, marks that turn the direction of writing, and lone surrogates.
_OTHERS = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE = re.compile(f"[\x00-\x1f{_OTHERS}]")
_UNSAFE_IN_JSON = re.compile(f"[{_OTHERS}]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """A text in one line, with whatever would move the cursor, colour a terminal or break an encoding written out."""
    return _UNSAFE.sub(_written_out, text)


def printable_json(document: str) -> str:
    """A JSON document, in which only what JSON lets stand, fit for a terminal and any encoding; its values stay."""
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _written_out(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
