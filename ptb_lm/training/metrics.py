"""The metrics of a run, ``metrics.jsonl``: one JSON object a line, read in bounded memory.

The file may come from a stranger and have any size. It is read line by line; a line that is longer
than ours ever are is skipped without being held, and of a line only what is used is kept.
"""

import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ptb_lm.errors import InputError
from ptb_lm.regular import open_regular

logger = logging.getLogger(__name__)

Record = dict[str, Any]
"""A line: ``step`` and ``epoch`` are integers, every other value is a finite float or None."""

KEYS = ("step", "epoch")
"""Every line has these."""

LARGEST_FIGURE = 1e100
"""Larger numbers are no figures of a run, and sums and ratios of them would overflow."""

LEAST_PERPLEXITY = 0.9
"""None is below 1, apart from rounding; ratios to one of 0 would not be numbers."""

LONGEST_LINE = 1 << 16
"""Bytes; ours have about 200."""


def metrics_record(line: bytes) -> Record | None:
    """Read a line of the metrics; None if it is not a whole one.

    A value that is no number below :data:`LARGEST_FIGURE`, as after a divergence, becomes None.
    """
    if not line.lstrip().startswith(b"{"):
        return None
    try:
        record = json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    values = [record.get(key) for key in KEYS] if isinstance(record, dict) else [None]
    if not all(type(value) is int and 0 <= value < 2**63 for value in values):
        return None
    return {key: value if key in KEYS else _figure(key, value) for key, value in record.items()}


def _figure(key: str, value: object) -> float | None:
    number = _number(value)
    if number is not None and key.endswith("perplexity") and number < LEAST_PERPLEXITY:
        return None
    return number


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the largest float
        return None
    if not abs(number) < LARGEST_FIGURE:  # NaN neither
        return None
    return number if abs(number) > 1 / LARGEST_FIGURE else 0.0


def number_in(record: Record, key: str) -> float:
    """Return a figure of a line of the metrics; NaN where it has none, as after a divergence."""
    value = _number(record.get(key))
    return math.nan if value is None else value


def ends_epoch(record: Record) -> bool:
    """Whether a line is the one of an epoch's end."""
    return "valid/perplexity" in record


def whole_lines(path: Path, *, warn: bool = True) -> Iterator[tuple[bytes, Record]]:
    """Yield each line of a metrics file as it is, with its end if it has one, and what it holds.

    Nothing is yielded if the file is missing. Lines that are not whole, as a crash leaves the last
    one, are left out, for all of which there is one warning at the end.

    Raises:
        InputError: it cannot be read.
    """
    left_out = 0
    for line in raw_lines(path):
        record = metrics_record(line)
        if record is None:
            left_out += 1
        else:
            yield line, record
    if warn and left_out:
        lines = (
            "a line that is not whole is"
            if left_out == 1
            else (f"{left_out:,} lines that are not whole are")
        )
        logger.warning("%s: %s left out", path, lines)


def iterate_metrics(path: Path, *, warn: bool = True) -> Iterator[Record]:
    """Yield what the lines of a metrics file hold; see :func:`whole_lines`."""
    return (record for _, record in whole_lines(path, warn=warn))


def read_metrics(path: Path) -> list[Record]:
    """Return what the lines of a metrics file hold; see :func:`whole_lines`."""
    return list(iterate_metrics(path))


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file as they are, one that is too long as an empty one.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            reader, size = LineReader(), os.fstat(file.fileno()).st_size
            yield from reader.read(file, size)
            if reader.offset < size or reader.is_within_long_line:
                file.seek(reader.offset)
                yield file.read(min(LONGEST_LINE, size - reader.offset))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


@dataclass
class LineReader:
    """Reads the lines of a growing file, each once and in bounded memory.

    Attributes:
        offset: of the first byte that has not been read.
        is_within_long_line: whether the line there began before it and is too long to be one.
    """

    offset: int = 0
    is_within_long_line: bool = False

    def read(self, file: IO[bytes], size: int) -> Iterator[bytes]:
        """Yield the lines that are new and ended, with their ends; b"\\n" for one too long.

        Args:
            file: open for reading.
            size: in bytes; nothing beyond it is read, as some files of /proc have no end.
        """
        file.seek(self.offset)
        while line := file.readline(min(LONGEST_LINE, size - self.offset)):
            is_ended = line.endswith(b"\n")
            if not is_ended and len(line) < LONGEST_LINE and not self.is_within_long_line:
                return  # it may still be in writing
            self.offset += len(line)
            if is_ended:
                yield b"\n" if self.is_within_long_line else line
            self.is_within_long_line = not is_ended
