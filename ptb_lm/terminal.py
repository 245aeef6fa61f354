"""Text made harmless for a terminal, which obeys escape sequences wherever they come from.

Also here: the sizes of a terminal that the environment gives.
"""

import re
import shutil
import unicodedata
from collections.abc import MutableMapping
from contextlib import suppress
from typing import TextIO

_WIDTH_OF_HELP = "TERMINAL_WIDTH"
"""The environment variable of typer for the width of ``--help``."""

_SIZES = ("COLUMNS", "LINES", _WIDTH_OF_HELP)
"""Environment variables that rich, typer and tqdm read."""

_PLAUSIBLE_SIZE = re.compile(r"[1-9][0-9]{0,3}")
_LEAST_COLUMNS = 20
"""In fewer columns there is no room for words."""

_USUAL_COLUMNS = 80

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


def for_stream(text: str, stream: TextIO) -> str:
    """Return a text as it is to be written to a stream: harmless where that is a terminal.

    What goes to a file or a pipe stays as it is.
    """
    return printable(text, keep="\n\t") if stream.isatty() else text


def usable_width(columns: int) -> int:
    """Return a width, or 80 in place of one that has no room for words, as terminals of CI have."""
    return columns if columns >= _LEAST_COLUMNS else _USUAL_COLUMNS


def drop_unusable_sizes(environment: MutableMapping[str, str]) -> None:
    """Remove sizes from an environment that are no numbers or no sizes to write words in.

    Containers and CI services set ``COLUMNS=0``. Without the variable, the width is the terminal's
    own. Where that is unusable too, ``--help`` is written in 80 columns.
    """
    for name in _SIZES:
        value = environment.get(name, "")
        is_size = _PLAUSIBLE_SIZE.fullmatch(value) is not None
        if not is_size or (name != "LINES" and int(value) < _LEAST_COLUMNS):
            environment.pop(name, None)
    columns = shutil.get_terminal_size().columns
    if columns != usable_width(columns):
        environment.setdefault(_WIDTH_OF_HELP, str(_USUAL_COLUMNS))


def _is_escaped(character: str) -> bool:
    return unicodedata.category(character) in _NOT_SHOWN or character in _BIDIRECTIONAL


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]
