"""Words to indices and back."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat

import numpy as np

from ptb_lm.corpus.text import EOS, UNK
from ptb_lm.corpus.tokens import TokenBuffer, TokenIds, count_token, count_types, parts_of


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
    def of_counts(cls, counts: Mapping[str, int]) -> "Vocabulary":
        """Collect the types of a training text, given how often it has each."""
        counts = {EOS: 0, UNK: 0, **counts}
        return cls(sorted(counts, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def sha256(self) -> str:
        """The identity of the vocabulary: words and order."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    def differs_from(self, other: "Vocabulary", whose: str) -> str:
        """Say of a model's vocabulary that it is not the one of something else, and how it differs.

        Args:
            other: not equal to this one.
            whose: what the other is of.
        """
        mine, theirs = f"{len(self):,} words", f"{len(other):,} words"
        if mine != theirs:
            return f"its vocabulary ({mine}) is not that of {whose} ({theirs})"
        # The order is by frequency, so that a word more or less is enough to change it.
        return (
            f"its vocabulary is not that of {whose}: both have {mine}, but the words "
            "or their order differ, so the training text is another, or was changed"
        )

    def encode(self, words: Sequence[str]) -> TokenIds:
        """Map words to indices of shape (N,), unknown words to ``<unk>``."""
        indices = map(self.index.get, words, repeat(self.index[UNK]))
        return np.fromiter(indices, np.int32, len(words))

    def encode_text(
        self,
        batches: Iterable[Sequence[str]],
        seen: Callable[[Sequence[str], TokenIds], None] | None = None,
    ) -> TokenIds:
        """Map a text to indices, in memory 4 bytes a token.

        Args:
            batches: the text as lists of words.
            seen: called with each list and its indices.
        """
        tokens = TokenBuffer()
        for words in batches:
            ids = self.encode(words)
            if seen is not None:
                seen(words, ids)
            tokens.append(ids)
        return tokens.joined()

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Map indices to words."""
        return [self.words[index] for index in ids]

    def decode_text(self, tokens: TokenIds) -> Iterator[list[str]]:
        """Map a text of shape (N,) likewise, as lists of words."""
        for part in parts_of(tokens):
            yield self.decode(part.tolist())

    def share_unknown(self, tokens: TokenIds) -> float:
        """Return the share of tokens that are ``<unk>``, between 0 and 1."""
        return count_token(tokens, self.index[UNK]) / len(tokens)


class WordIds(dict[str, int]):
    """Numbers the words that it is asked for, from 0, in the order in which they first come."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number

    def encode(self, words: Sequence[str]) -> TokenIds:
        """Map words to their numbers."""
        return np.fromiter(map(self.__getitem__, words), np.int32, len(words))


def encode_training_text(batches: Iterable[Sequence[str]]) -> tuple[Vocabulary, TokenIds]:
    """Collect the vocabulary of a text and encode the text with it, which is read once.

    Args:
        batches: its words, as lists.

    Returns:
        the vocabulary, and the tokens, (N,), in memory 4 bytes each.
    """
    numbers, buffer = WordIds(), TokenBuffer()
    for words in batches:
        buffer.append(numbers.encode(words))
    tokens = buffer.joined()
    counts = count_types(tokens, len(numbers)).tolist()
    vocabulary = Vocabulary.of_counts(dict(zip(numbers, counts, strict=True)))
    index = np.array([vocabulary.index[word] for word in numbers], np.int32)  # of each number
    for part in parts_of(tokens):
        part[:] = index[part]
    return vocabulary, tokens
