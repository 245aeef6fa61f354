"""Word indices in memory, 4 bytes each, never held twice.

Shapes: N tokens of a text, V words of a vocabulary.
"""

import mmap
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int32]

BLOCK_TOKENS = 1 << 20
PART_TOKENS = 1 << 18
"""How many tokens are worked on at once, if the result would be as large as the text or larger."""


class TokenBuffer:
    """Collects tokens until there are no more, and makes one array of them.

    The blocks that hold them meanwhile go back to the system one by one, as the array fills. That
    is why they are mappings: ``malloc`` may keep what is freed, and is told to in training.
    """

    def __init__(self) -> None:
        self.blocks: list[TokenIds] = []
        self.length = 0

    def append(self, tokens: TokenIds) -> None:
        """Add tokens at the end.

        Raises:
            MemoryError: memory does not suffice.
        """
        while len(tokens):
            used = self.length % BLOCK_TOKENS
            if not used:
                self.blocks.append(_mapped(BLOCK_TOKENS))
            taken = tokens[: BLOCK_TOKENS - used]
            self.blocks[-1][used : used + len(taken)] = taken
            self.length += len(taken)
            tokens = tokens[len(taken) :]

    def joined(self) -> TokenIds:
        """Return all tokens, (N,), and forget them.

        Raises:
            MemoryError: memory does not suffice.
        """
        tokens, self.length = _mapped(self.length), 0
        for start in range(0, len(tokens), BLOCK_TOKENS):
            part = tokens[start : start + BLOCK_TOKENS]
            part[:] = self.blocks.pop(0)[: len(part)]
        return tokens


def _mapped(length: int) -> TokenIds:
    """Return room for so many tokens that takes memory only as it is filled."""
    try:
        memory = mmap.mmap(
            -1,
            max(1, length) * np.dtype(np.int32).itemsize,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
        )
    except OSError as error:
        raise MemoryError("no memory is left for the text") from error
    return np.frombuffer(memory, np.int32)[:length]


def parts_of(tokens: TokenIds) -> Iterator[TokenIds]:
    """Yield a text part by part, as views of it."""
    for start in range(0, len(tokens), PART_TOKENS):
        yield tokens[start : start + PART_TOKENS]


def count_types(tokens: TokenIds, size: int) -> NDArray[np.int64]:
    """Return how often a text has each of V words, (V,)."""
    counts = np.zeros(size, np.int64)
    for part in parts_of(tokens):
        counts += np.bincount(part, minlength=size)
    return counts


def count_token(tokens: TokenIds, token: int) -> int:
    """Return how often a text has a word."""
    return sum(int(np.count_nonzero(part == token)) for part in parts_of(tokens))
