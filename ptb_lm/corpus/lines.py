"""Lines of a text compared by their hashes: 8 bytes a line, whatever its length.

Shapes: N tokens of a text, L lines of it.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ptb_lm.corpus.tokens import PART_TOKENS, TokenIds, parts_of

LineHashes = NDArray[np.uint64]
"""One hash of each line, (L,): 0 if it has no word, odd if it is a long line."""

LONG_LINE = 8
"""The fewest ordinary words of a line that hardly stands twice in a text by chance."""


class LineHashBuffer:
    """The hashes of a known number of lines, that come in parts: without a second copy of them.

    Attributes:
        hashes: (L,).
    """

    def __init__(self, lines: int) -> None:
        self.hashes: LineHashes = np.empty(lines, np.uint64)
        self._filled = 0

    def append(self, part: LineHashes) -> None:
        """Add the hashes of the next lines."""
        self.hashes[self._filled : self._filled + len(part)] = part
        self._filled += len(part)


def line_hashes(
    parts: Iterable[TokenIds], line_end: int, ordinary: NDArray[np.bool_]
) -> Iterator[LineHashes]:
    """Hash the lines of a text that comes in parts.

    Lines of more than :data:`~ptb_lm.corpus.tokens.PART_TOKENS` tokens count as lines of no word.

    Args:
        parts: word indices, cut anywhere.
        line_end: the index that ends a line.
        ordinary: which words count in a long line, (V,): not ``<unk>``.
    """
    begun = np.empty(0, np.int32)  # the beginning of a line
    for part in parts:
        tokens = np.concatenate([begun, part])
        ends = np.flatnonzero(tokens == line_end)
        if len(ends):
            whole = int(ends[-1]) + 1
            yield _hashes(tokens[:whole], ends, ordinary)
            tokens = tokens[whole:]
        begun = tokens[: PART_TOKENS + 1].copy()


def _hashes(tokens: TokenIds, ends: NDArray[np.intp], ordinary: NDArray[np.bool_]) -> LineHashes:
    """Hash whole lines that end at these places: a sum of mixed pairs of place and token."""
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts
    place = np.arange(len(tokens)) - np.repeat(starts, lengths + 1)
    mixed = tokens.astype(np.uint64) + (place.astype(np.uint64) << np.uint64(32))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    hashes: LineHashes = np.add.reduceat(mixed, starts)
    known = np.add.reduceat(ordinary[tokens].astype(np.int64), starts) - ordinary[tokens[ends]]
    hashes = (hashes | np.uint64(3)) ^ (known < LONG_LINE).astype(np.uint64)
    hashes[(lengths == 0) | (lengths > PART_TOKENS)] = 0
    return hashes


def are_in(hashes: LineHashes, other: Iterable[LineHashes]) -> NDArray[np.bool_]:
    """Return of each line whether another text has it too, (L,); False for a line of no word.

    Args:
        hashes: of the lines, (L,).
        other: hashes of the other text's lines, in parts.
    """
    wanted = np.unique(hashes)
    found = np.zeros(len(wanted), bool)
    for part in other:
        place = np.searchsorted(wanted, part)
        place[place == len(wanted)] = 0
        found[place[wanted[place] == part]] = True
    found[wanted == 0] = False
    return found[np.searchsorted(wanted, hashes)]


def share_of_copies(hashes: LineHashes, *, only_long: bool = True) -> float:
    """Return the share of the lines that stand in their own text more than once.

    Args:
        hashes: of the lines, (L,); sorted in place.
        only_long: whether short lines do not count; lines of no word never do.
    """
    hashes.sort()
    same = hashes[1:] == hashes[:-1]
    is_copy = np.append(same, False) | np.append(False, same)
    counts = hashes.astype(np.uint8) % 2 == 1 if only_long else hashes > 0
    return float(is_copy[counts].mean()) if counts.any() else 0.0


def count_blank_lines(tokens: TokenIds, line_end: int) -> int:
    """Return how many lines of a text (N,) have no word."""
    blank, begins = 0, True
    for part in parts_of(tokens):
        ends = part == line_end
        blank += int(np.count_nonzero(ends[1:] & ends[:-1])) + (begins and bool(ends[0]))
        begins = bool(ends[-1])
    return blank
