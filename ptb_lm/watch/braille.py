"""Curves in a terminal: lines of Braille characters, each of which has two dots by four."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

DOTS_ACROSS, DOTS_DOWN = 2, 4
EMPTY = 0x2800
# The bit of each dot in a character's number, by row and column (Unicode, Braille Patterns).
BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
DASH, PERIOD = 2, 4
"""Dots of a dash, and of a dash with the gap after it."""


@dataclass(frozen=True)
class Line:
    """A curve to draw.

    Attributes:
        heights: at equal distances from the left edge to the right; 0 is the bottom, 1 the top.
            None is a gap.
        dashed: so that it is told apart without colours.
    """

    heights: Sequence[float | None]
    dashed: bool = False


@dataclass(frozen=True)
class Cell:
    """A character of a drawing, and which of the lines was drawn last in it; None if none was."""

    character: str
    line: int | None


def draw(lines: Sequence[Line], width: int, height: int) -> list[list[Cell]]:
    """Draw curves, the later over the earlier.

    Args:
        lines: the curves.
        width: in characters.
        height: likewise.

    Returns:
        ``height`` rows of ``width`` characters.
    """
    bits = [[0] * width for _ in range(height)]
    owners: list[list[int | None]] = [[None] * width for _ in range(height)]
    for number, line in enumerate(lines):
        for x, y in _dots(line, DOTS_ACROSS * width, DOTS_DOWN * height):
            row, column = y // DOTS_DOWN, x // DOTS_ACROSS
            bits[row][column] |= BITS[y % DOTS_DOWN][x % DOTS_ACROSS]
            owners[row][column] = number
    return [
        [Cell(chr(EMPTY + mask) if mask else " ", owner) for mask, owner in zip(*row, strict=True)]
        for row in zip(bits, owners, strict=True)
    ]


def row_of(height_of_line: float, height: int) -> int:
    """Return the row of a drawing, counted from above, in which a height of 0 to 1 lies."""
    return _dot_of(height_of_line, DOTS_DOWN * height) // DOTS_DOWN


def _dot_of(height_of_line: float, dots: int) -> int:
    return round((1 - height_of_line) * (dots - 1))


def _dots(line: Line, across: int, down: int) -> list[tuple[int, int]]:
    """Return the dots of a line from left to right, joined from one column to the next."""
    last = max(1, len(line.heights) - 1)
    points = [
        None if height is None else (round(index * (across - 1) / last), _dot_of(height, down))
        for index, height in enumerate(line.heights)
    ]
    dots = [point for point in points if point is not None]
    for start, end in pairwise(points):
        if start is None or end is None:
            continue
        longest = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for step in range(1, longest):
            share = step / longest
            x, y = (round(a + share * (b - a)) for a, b in zip(start, end, strict=True))
            if not line.dashed or x % PERIOD < DASH:
                dots.append((x, y))
    return dots
