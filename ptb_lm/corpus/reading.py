"""Text files to words, a part at a time: in memory is what is being split, and nothing else.

A text may be compressed, see :mod:`ptb_lm.corpus.unpack`.
"""

import io
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, NoReturn, TypeVar

from tqdm import tqdm

from ptb_lm.corpus.text import EOS, decoded, words_of
from ptb_lm.corpus.unpack import unpacked
from ptb_lm.errors import InputError
from ptb_lm.stop import NEVER, StopFlag

PART_BYTES = 1 << 16
"""What is read and split at once: few enough words that a processor's cache holds them."""

LONGEST_LINE, LONGEST_WORD = 2_000_000, 100_000
"""In bytes, with the line feed. Scoring a line takes about 60 times its size in memory; and
Python's ``csv`` reads no field of more than 131,072 characters."""

SECONDS_UNTIL_SHOWN = 0.5
"""A bar of less would only flash."""

tqdm.monitor_interval = 0  # no thread beside ours


STANDARD_INPUT = Path("-")

T = TypeVar("T")


def read_words(
    path: Path,
    stop: StopFlag = NEVER,
    line_end: str = EOS,
    seen: Callable[[str], None] | None = None,
) -> Iterator[list[str]]:
    """Read a text file into words, with a bar where standard error is a terminal.

    Args:
        path: of the file; ``-`` is standard input. It is read once, so that a pipe will do.
        stop: checked before each part, and ends the wait for one.
        line_end: what a line is ended with, see :func:`~ptb_lm.corpus.text.words_of`.
        seen: called with each part of the text before it is split.

    Yields:
        lists of some thousands of words.

    Raises:
        InputError: the file is missing, is not UTF-8, or holds no word.
        Stopped: a signal came.
    """
    name = name_of(path)
    has_words = False
    parts = decoded(_parts_of(path, stop), name)
    for words in words_of(parts if seen is None else _shown(parts, seen), line_end, name):
        has_words = has_words or any(word not in (EOS, line_end) for word in words)
        yield words
    if not has_words:
        raise InputError(f"{name}: no word in it")


def _shown(parts: Iterable[str], seen: Callable[[str], None]) -> Iterator[str]:
    for part in parts:
        seen(part)
        yield part


def name_of(path: Path) -> str:
    """Return what a text is called where something is said of it."""
    return "standard input" if path == STANDARD_INPUT else str(path)


@contextmanager
def opened(path: Path, stop: StopFlag = NEVER) -> Iterator[IO[bytes]]:
    """Open a text, compressed or not, to read from; ``-`` is standard input.

    Raises:
        InputError: it cannot be read, or is an archive.
        Stopped: a signal came while a pipe waited for its writer.
    """
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise InputError("standard input is closed; name a file")
        yield _unpacked(sys.stdin.buffer, path, stop)
        return
    try:
        with stop.while_waiting():
            file = path.open("rb")
    except OSError as error:
        raise _unreadable(str(path), error) from None
    with file:
        yield _unpacked(file, path, stop)


def _unpacked(file: IO[bytes], path: Path, stop: StopFlag) -> IO[bytes]:
    name = name_of(path)
    return _read(partial(unpacked, file, name), name, stop)


def read_lines(
    file: IO[bytes],
    name: str,
    stop: StopFlag = NEVER,
    seen: Callable[[str], None] = lambda line: None,
) -> Iterator[str]:
    """Read a text line by line as it comes, holding no more than one.

    Args:
        file: see :func:`opened`.
        name: what to call it.
        stop: heard while a line is waited for.
        seen: called with each line as it is in the file, with its line feed.

    Yields:
        each line without its line feed.

    Raises:
        InputError: a line is not UTF-8 or is too long for a sentence, or the file can be read no
            further.
        Stopped: a signal came.
    """
    for line in decoded(_lines_of(file, name, stop), name):
        seen(line)
        yield line.removesuffix("\n")


def _lines_of(file: IO[bytes], name: str, stop: StopFlag) -> Iterator[bytes]:
    for number in count(1):
        line = _read(partial(file.readline, LONGEST_LINE + 1), name, stop)
        if not line:
            return
        if len(line) > LONGEST_WORD and b"\0" not in line:  # a NUL is reported when it is decoded
            _require_sentence(line, f"{name}: line {number}")
        yield line


def _require_sentence(line: bytes, place: str) -> None:
    """Raise InputError if a line, of which no more than one byte too many is read, is too long."""
    if len(line) > LONGEST_LINE:
        raise InputError(
            f"{place}: longer than {LONGEST_LINE:,} bytes; each line is read as one sentence: put "
            "one sentence on a line; `ptb-lm eval --text` takes lines of any length"
        )
    longest = max(map(len, line.split()), default=0)
    if longest > LONGEST_WORD:
        raise InputError(
            f"{place}: a word of {longest:,} bytes; expected at most {LONGEST_WORD:,}: put spaces "
            "between words"
        )


def require_readable(paths: Iterable[Path]) -> None:
    """Raise InputError if one of several files cannot be read, before the first is.

    A pipe is only looked for: opened, it would wait for its writer.
    """
    for path in paths:
        try:
            mode = path.stat().st_mode
            if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                path.open("rb").close()
        except OSError as error:
            raise _unreadable(str(path), error) from None


def _parts_of(path: Path, stop: StopFlag) -> Iterator[bytes]:
    """Yield the bytes of a file."""
    with opened(path, stop) as file, progress("reading", _size(file), "B") as bar:
        while part := _read(partial(file.read, PART_BYTES), name_of(path), stop):
            yield part
            bar.update(len(part))


def _read(read: Callable[[], T], name: str, stop: StopFlag) -> T:
    """Read from a file, and hear a signal while it is waited for."""
    try:
        with stop.while_waiting():
            return read()
    except OSError as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: OSError) -> InputError:
    advice = "; name the text files in it" if isinstance(error, IsADirectoryError) else ""
    return InputError(f"{name}: cannot be read: {error.strerror}{advice}")


def _size(file: IO[bytes]) -> int | None:
    """Return how many bytes a file has; of a pipe or a compressed text nobody knows."""
    try:
        status = os.fstat(file.fileno())
    except io.UnsupportedOperation:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def progress(what: str, total: int | None, unit: str) -> "tqdm[NoReturn]":
    """Return a bar that is shown on a terminal, if it takes long enough to be read."""
    return tqdm(
        desc=what,
        total=total,
        unit=unit,
        unit_scale=True,
        leave=False,
        disable=None,
        delay=SECONDS_UNTIL_SHOWN,
    )
