"""Text made harmless for a terminal, which obeys escape sequences wherever they come from."""

import unicodedata
from contextlib import suppress

_NOT_SHOWN = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode categories: control characters, surrogates, line and paragraph separators."""

_BIDIRECTIONAL = {
    *"\u061c\u200e\u200f",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
}
"""Marks that reorder the text around them."""


def printable(text: str, keep: str = "") -> str:
    """Return a text with control characters, surrogates and reordering marks escaped.

    Args:
        text: any text. Bytes of a file name that the locale could not decode are read as UTF-8
            where they are UTF-8, and written as ``\\xe9`` where they are not.
        keep: control characters to leave as they are.
    """
    with suppress(UnicodeEncodeError):  # a surrogate that stands for no byte
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return "".join(
        _escaped(each) if _is_escaped(each) and each not in keep else each for each in text
    )


def _is_escaped(character: str) -> bool:
    return unicodedata.category(character) in _NOT_SHOWN or character in _BIDIRECTIONAL


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]
