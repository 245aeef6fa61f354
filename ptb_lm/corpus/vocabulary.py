"""Words to indices and back."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ptb_lm.corpus.text import EOS, UNK

TokenIds = NDArray[np.int32]


class Vocabulary:
    """V word types in a fixed order: the most frequent first, equals by their code points.

    ``<eos>`` and ``<unk>`` are always members, so that any text can be encoded.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self.index = {word: index for index, word in enumerate(self.words)}
        if len(self.index) != len(self.words) or not {EOS, UNK} <= self.index.keys():
            raise ValueError(f"a vocabulary holds each word once, {EOS} and {UNK} among them")

    @classmethod
    def of_text(cls, words: Iterable[str]) -> "Vocabulary":
        """Collect the types of a training text."""
        counts = Counter(words)
        for special in (EOS, UNK):
            counts.setdefault(special, 0)
        return cls(sorted(counts, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def sha256(self) -> str:
        """The identity of the vocabulary: words and order."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    def encode(self, words: Sequence[str]) -> TokenIds:
        """Map words to indices of shape (N,), unknown words to ``<unk>``."""
        unknown = self.index[UNK]
        get = self.index.get
        return np.fromiter((get(word, unknown) for word in words), np.int32, len(words))

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Map indices to words."""
        return [self.words[index] for index in ids]

    def share_unknown(self, ids: TokenIds) -> float:
        """Return the share of tokens that are ``<unk>``, between 0 and 1."""
        return float(np.mean(ids == self.index[UNK]))
