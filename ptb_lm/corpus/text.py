"""Text to words, and nothing else: what a token is stands here.

A line is a sentence and ends at a line feed alone. Each is split at white space and ended with
``<eos>``; an empty line is the sentence of no words. White space is Unicode's, so that a carriage
return, a tab, a no-break space and U+2028 stand between words. Nothing is normalised. That reading
of the Penn Treebank gives the 929,589 / 73,760 / 82,430 tokens that the field's perplexities are
counted over.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ptb_lm.errors import InputError
from ptb_lm.stop import NEVER, StopFlag

EOS = "<eos>"
UNK = "<unk>"


def split_words(text: str) -> list[str]:
    """Return the words of a text, each line ended with ``<eos>``, whether the last is or not."""
    if text and not text.endswith("\n"):
        text += "\n"
    return text.replace("\n", f" {EOS} ").split()


def decode(data: bytes, name: str, lines_before: int = 0, bytes_before: int = 0) -> str:
    """Decode UTF-8, with or without a byte order mark.

    A NUL is UTF-8, but of no text: it comes from UTF-16 or from a file of another kind, and a
    model of it would be one of nothing.

    Args:
        data: a file, or whole lines of it.
        name: what to call the file.
        lines_before: how many lines of the file come before these.
        bytes_before: how many bytes.

    Raises:
        InputError: naming the file, line and byte that is not UTF-8 or NUL.
    """
    try:
        text = data.decode("utf-8")
        if bytes_before == 0:
            text = text.removeprefix("\ufeff")
        wrong = data.find(b"\0")
    except UnicodeDecodeError as error:
        wrong = error.start
    if wrong < 0:
        return text
    line = lines_before + data.count(b"\n", 0, wrong) + 1
    what = "not UTF-8" if data[wrong] else "a NUL byte: is it UTF-16, or no text?"
    raise InputError(
        f"{name}: line {line}, byte {bytes_before + wrong}: {what} (0x{data[wrong]:02x}); "
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
        raise _unreadable(str(path), error) from None
    words = split_words(decode(data, str(path)))
    if all(word == EOS for word in words):
        raise InputError(f"{path}: no word in it")
    return words


STANDARD_INPUT = Path("-")


@contextmanager
def opened(path: Path, stop: StopFlag = NEVER) -> Iterator[IO[bytes]]:
    """Open a file to read lines from; ``-`` is standard input.

    Raises:
        InputError: it cannot be read.
        Stopped: a signal came while a pipe waited for its writer.
    """
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise InputError("standard input is closed; name a file")
        yield sys.stdin.buffer
        return
    try:
        with stop.while_waiting():
            file = path.open("rb")
    except OSError as error:
        raise _unreadable(str(path), error) from None
    with file:
        yield file


def read_lines(file: IO[bytes], name: str, stop: StopFlag = NEVER) -> Iterator[str]:
    """Read a text line by line as it comes, holding no more than one.

    Args:
        file: see :func:`opened`.
        name: what to call it.
        stop: heard while a line is waited for.

    Yields:
        each line without its line feed.

    Raises:
        InputError: a line is not UTF-8, or the file can be read no further.
        Stopped: a signal came.
    """
    lines = bytes_ = 0
    while True:
        try:
            with stop.while_waiting():
                data = file.readline()
        except OSError as error:
            raise _unreadable(name, error) from None
        if not data:
            return
        yield decode(data, name, lines, bytes_).removesuffix("\n")
        lines, bytes_ = lines + 1, bytes_ + len(data)


def _unreadable(name: str, error: OSError) -> InputError:
    return InputError(f"{name}: cannot be read: {error.strerror}")
