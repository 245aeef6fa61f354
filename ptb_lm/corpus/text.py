"""Text to words, and nothing else: what a token is stands here.

A line is a sentence and ends at a line feed alone. Each is split at white space and ended with
``<eos>``; an empty line is the sentence of no words. White space is Unicode's, so that a carriage
return, a tab, a no-break space and U+2028 stand between words. Nothing is normalised. That reading
of the Penn Treebank gives the 929,589 / 73,760 / 82,430 tokens that the field's perplexities are
counted over.

A text comes and goes in parts, of whatever sizes, so that none is ever whole in memory: bytes to
strings to lists of words.
"""

import codecs
import os
from collections.abc import Iterable, Iterator
from itertools import chain

from ptb_lm.errors import InputError

EOS = "<eos>"
UNK = "<unk>"
BYTE_ORDER_MARK = "\ufeff"
LONGEST_WORD = 1 << 24
"""How many characters a word may have, so that a file without white space cannot fill memory."""


def words_of(
    parts: Iterable[str], line_end: str = EOS, name: str = "the text"
) -> Iterator[list[str]]:
    """Yield the words of a text, each line ended with ``<eos>``, whether the last is or not.

    Args:
        parts: the text, cut anywhere; no part is empty.
        line_end: what a line is ended with instead.
        name: what to call the text in a message.

    Yields:
        the words, list by list; about as many as a part has.

    Raises:
        InputError: a word is longer than any text has.
    """
    pieces: list[str] = []  # of a word that goes on in the next part
    length = 0  # of these pieces
    last = "\n"
    for part in parts:
        last = part[-1]
        if part.split(None, 1) == [part]:  # all of it is within one word
            pieces.append(part)
            length += len(part)
            if length > LONGEST_WORD:
                raise InputError(
                    f"{name}: {LONGEST_WORD:,} characters without white space; expected a text, "
                    "whose words are separated by spaces"
                )
            continue
        length = 0
        words = "".join([*pieces, part]).replace("\n", f" {line_end} ").split()
        pieces = [] if last.isspace() else [words.pop()]
        yield words
    if last != "\n":
        yield [*(["".join(pieces)] if pieces else []), line_end]


def decoded(parts: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode UTF-8, with or without a byte order mark.

    A NUL is UTF-8, but of no text: it comes from UTF-16 or from a file of another kind, and a
    model of it would be one of nothing.

    Args:
        parts: the bytes, cut anywhere; no part is empty.
        name: of the file.

    Yields:
        the text; no part is empty.

    Raises:
        InputError: naming the file, line and byte that is the first that is not UTF-8 or NUL.
    """
    position = lines = 0  # bytes and line feeds that are decoded
    rest = b""  # the beginning of a character
    begins = True
    for part in chain(parts, [b""]):
        data = rest + part
        wrong = data.find(0)
        try:
            text, length = codecs.utf_8_decode(data, "strict", not part)
        except UnicodeDecodeError as error:
            wrong = error.start if wrong < 0 else min(wrong, error.start)
        if wrong >= 0:
            line = lines + data.count(b"\n", 0, wrong) + 1
            what = "not UTF-8" if data[wrong] else "a NUL byte: is it UTF-16, or no text?"
            raise InputError(
                f"{name}: line {line}, byte {position + wrong}: {what} (0x{data[wrong]:02x}); "
                "convert the file to UTF-8"
            )
        position += length
        lines += data.count(b"\n")
        rest = data[length:]
        if begins and text:
            text = text.removeprefix(BYTE_ORDER_MARK)
            begins = False
        if text:
            yield text


def from_command_line(argument: str) -> str:
    """Return a word of the command line as UTF-8, whatever the locale took it for."""
    return os.fsencode(argument).decode("utf-8", "surrogateescape")
