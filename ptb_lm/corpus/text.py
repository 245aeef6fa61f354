"""Text to words, and nothing else: what a token is stands here.

A line is a sentence and ends at a line feed alone. Each is split at white space and ended with
``<eos>``; an empty line is the sentence of no words. White space is Unicode's, so that a carriage
return, a tab, a no-break space and U+2028 stand between words. Nothing is normalised. That reading
of the Penn Treebank gives the 929,589 / 73,760 / 82,430 tokens that the field's perplexities are
counted over.
"""

import os
from pathlib import Path

from ptb_lm.errors import InputError

EOS = "<eos>"
UNK = "<unk>"


def split_words(text: str) -> list[str]:
    """Return the words of a text, each line ended with ``<eos>``, whether the last is or not."""
    if text and not text.endswith("\n"):
        text += "\n"
    return text.replace("\n", f" {EOS} ").split()


def decode(data: bytes, name: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    A NUL is UTF-8, but of no text: it comes from UTF-16 or from a file of another kind, and a
    model of it would be one of nothing.

    Raises:
        InputError: naming the file, line and byte that is not UTF-8 or NUL.
    """
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
        wrong = data.find(b"\0")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong < 0:
        return text
    line = data.count(b"\n", 0, wrong) + 1
    what = "not UTF-8" if data[wrong] else "a NUL byte: is it UTF-16, or no text?"
    raise InputError(
        f"{name}: line {line}, byte {wrong}: {what} (0x{data[wrong]:02x}); "
        "convert the file to UTF-8"
    )


def from_command_line(argument: str) -> str:
    """Return a word of the command line as UTF-8, whatever the locale took it for."""
    return os.fsencode(argument).decode("utf-8", "surrogateescape")


def read_words(path: Path) -> list[str]:
    """Read a text file into words.

    Raises:
        InputError: the file is missing, is not UTF-8, or holds no word.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    words = split_words(decode(data, str(path)))
    if all(word == EOS for word in words):
        raise InputError(f"{path}: no word in it")
    return words
