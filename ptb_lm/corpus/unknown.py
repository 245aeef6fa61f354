"""Which words of a text a vocabulary lacks, how many, and what would make them known."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ptb_lm.corpus.text import EOS, UNK
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.terminal import printable

LONGEST_TRIED = 100
"""Longer words are only tested for being text without spaces: what is kept stays small."""

LONGEST_PLAIN = 20
"""Longer words are taken for several that nothing separates, if most unknown words are so long."""

LONGEST_LIST = 500
"""In characters, of the words that a message lists."""

WORDS_REMEMBERED = 1 << 14

_UNKNOWN_NAMES = ("unk", "unknown", "oov")
_BRACKETS = ("<>", "[]", "()", "{}", "__", "@@", "«»")
SPELLINGS_OF_UNKNOWN = {
    f"{brackets[0]}{name}{brackets[1]}"
    for lower in _UNKNOWN_NAMES
    for name in (lower, lower.upper(), lower.capitalize())
    for brackets in _BRACKETS
} - {UNK} | {
    *("unk", "UNK", "_UNK", "__unk__", "__UNK__", "OOV"),
    *("<unk/>", "<|unk|>", "<rare>", "&lt;unk&gt;", "\u2047"),
}
"""Spellings of the unknown word in other programs."""

_BOUNDARY_NAMES = (
    *("s", "bos", "sos", "eos", "eol", "eot", "eop", "start", "end", "pad", "sent", "sentence"),
    *("br", "go", "newline"),
)
BOUNDARY_MARKERS = {
    f"{opening}{slash}{name}{closing}"
    for opening, closing in ("<>", "[]")
    for slash in ("", "/")
    for lower in _BOUNDARY_NAMES
    for name in (lower, lower.upper(), lower.capitalize())
} - {EOS} | {"<br/>", r"<\s>", "[CLS]", "[SEP]", "<|endoftext|>", "<|startoftext|>", "<|im_end|>"}
"""Words that other programs write at the beginning and the end of a sentence."""

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, kana, Han: scripts that put no spaces between words."""

_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u2060\u00ad"))
_PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"}
)
_NUMBER = re.compile(r"[^\w\s]*\d[\d.,:/-]*[^\w\s]*")
_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|S|re|ve|ll|d|m))$")
_TAG = re.compile(r"(?<=\w)[_/|][A-Z]+\$?$")
_SENTENCE_MARKS = {*".,;:!?\u3002\uff0c\u3001"}
_PIECE = re.compile(r"n't|'\w+|\w+")
_ATTACHED = re.compile(r"\w[,;:!?\u3002\uff0c\u3001]")
_RAW_SHARE = 0.02
"""A vocabulary with a greater share of words that end in a mark is of a raw text. The Penn
Treebank has none, English prose of which nobody has separated the words a seventh."""


def is_unspaced(word: str) -> bool:
    """Return whether most of a word is written in a script without spaces between words."""
    return 2 * len(_UNSPACED.findall(word)) > len(word)


def is_piece(word: str) -> bool:
    """Return whether a word is a piece of one, as SentencePiece and BPE programs mark them."""
    return len(word) > 2 and (word.startswith(("\u2581", "\u0120", "##")) or word.endswith("@@"))


def is_raw(words: Collection[str]) -> bool:
    """Return whether words are of a text whose punctuation is attached to them."""
    attached = sum(_ATTACHED.fullmatch(word, max(0, len(word) - 2)) is not None for word in words)
    return attached > _RAW_SHARE * len(words)


_PLAIN_CHANGES: dict[str, Callable[[str], str]] = {
    "invisible": lambda word: word.translate(_INVISIBLE),
    "entities": html.unescape,
    "composed": lambda word: unicodedata.normalize("NFC", word),
    "decomposed": lambda word: unicodedata.normalize("NFD", word),
    "compatible": lambda word: unicodedata.normalize("NFKC", word),
    "quotes": lambda word: word.translate(_PLAIN),
    "tags": lambda word: _TAG.sub("", word),
}

_EXPLANATIONS = {
    "spelling": "are other spellings of the unknown word ({word}); write it <unk>",
    "markers": "mark the ends of sentences ({word}); each line is ended with <eos> already: remove "
    "them",
    "pieces": "are pieces of words ({word}), and the vocabulary is of whole words; join the pieces",
    "tags": "have a tag attached ({word}); remove the tags",
    "invisible": "hold an invisible character such as a byte order mark; remove it",
    "entities": "hold an HTML entity ({word}); replace entities by their characters",
    "composed": "are known in Unicode form NFC; normalize the text to it",
    "decomposed": "are known in Unicode form NFD; normalize the text to it",
    "compatible": "are known in Unicode form NFKC; normalize the text to it",
    "quotes": "have curly quotes or long dashes; write them as ' \" and -",
    "numbers": "are numbers ({word}), which are N in the training text; replace them by N",
    "lower": "have capitals ({word}), and the vocabulary has none; put the text into lower case",
    "case": "differ from a known word only in capitals ({word}); write the text with the capitals "
    "of the training text",
    "separate": "have punctuation attached ({word}); put spaces around punctuation, as in the "
    "training text",
    "remove": "have punctuation attached ({word}), and the vocabulary has none; remove it",
    "marks": "are punctuation ({word}), and the vocabulary has none; remove it",
    "both": "have capitals or punctuation attached ({word}); write both as in the training text",
    "spaces": "are text without spaces; words are split at white space, so put spaces between "
    "words as in the training text",
}


class ScoredSentence(Protocol):
    """A sentence of n words."""

    @property
    def words(self) -> Sequence[str]:
        """The words, without ``<eos>``."""

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """Which of the words are scored as ``<unk>``, (n,)."""


T = TypeVar("T")


class UnknownWords:
    """Counts the tokens of a text that a vocabulary lacks, and finds what would make them known.

    It keeps counts and one example for each reason, however long the text is.

    Attributes:
        tokens: N, all tokens seen; ``<eos>`` among them.
        missing: how many of them are not in the vocabulary, and so count as ``<unk>``.
        written: how many are ``<unk>`` in the text itself.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = self.missing = self.written = 0
        self._vocabulary = vocabulary
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self._remembered = lru_cache(WORDS_REMEMBERED)(self._reason)

    def see(self, words: Sequence[str], ids: NDArray[np.integer[Any]]) -> None:
        """Count words, given their indices in the vocabulary, both (N,)."""
        self.tokens += len(words)
        for place in np.flatnonzero(ids == self._vocabulary.index[UNK]).tolist():
            self._see_unknown(words[place])

    def seen_in(
        self, items: Iterable[T], sentence_of: Callable[[T], ScoredSentence]
    ) -> Iterator[T]:
        """Count the words of sentences as they pass, each with its ``<eos>``.

        Args:
            items: what the sentences come with.
            sentence_of: returns the sentence of an item.
        """
        for item in items:
            sentence = sentence_of(item)
            self.tokens += len(sentence.words) + 1
            for place in np.flatnonzero(sentence.unknown).tolist():
                self._see_unknown(sentence.words[place])
            yield item

    def _see_unknown(self, word: str) -> None:
        if word == UNK:
            self.written += 1
            return
        self.missing += 1
        find = self._remembered if len(word) <= LONGEST_TRIED else self._reason
        reason = find(word)
        if reason is not None:
            self._reasons[reason] += 1
            self._examples.setdefault(reason, word[:LONGEST_TRIED])

    @property
    def counts(self) -> dict[str, int]:
        """The counts as ``eval --json`` prints them."""
        return {
            "tokens": self.tokens,
            "not_in_vocabulary": self.missing,
            "written_as_unk": self.written,
        }

    def message(self, name: str, unit: str = "tokens", examples: Sequence[str] = ()) -> str | None:
        """Say in one line how much of a text is unknown and why; None if nothing is.

        Args:
            name: of the text.
            unit: what :attr:`tokens` counts.
            examples: unknown words to list.
        """
        if not self.missing:
            return None
        share = 100 * self.missing / self.tokens
        counted = (
            f"{name}: {self.missing:,} of {self.tokens:,} {unit} ({share:.1f} %) are not in the "
            f"vocabulary and count as {UNK}"
        )
        if examples:
            listed = printable(" ".join(examples))
            counted += f": {listed[:LONGEST_LIST]}{'…' if len(listed) > LONGEST_LIST else ''}"
        explained = self.explanation()
        return counted if explained is None else f"{counted}; {explained}"

    def explanation(self) -> str | None:
        """Say what would make most of the unknown words known; None if no one thing would."""
        counts = self._reasons.copy()
        case, attached, both = counts["case"], counts["separate"], counts.pop("both", 0)
        family = case + attached + both
        if family:
            del counts["case"], counts["separate"]
            with_case, with_marks = 5 * (case + both) >= family, 5 * (attached + both) >= family
            key = "both" if with_case and with_marks else "case" if with_case else "separate"
            counts[key] = family
            self._examples.setdefault("both", self._examples.get("separate", ""))
        if not counts:
            return None
        key, count = counts.most_common(1)[0]
        if 2 * count < self.missing:
            return None
        word = printable(self._examples[key])
        if key == "case" and not self._has_capitals:
            key = "lower"
        if key == "separate" and not self._has_marks:
            key = "remove"
        which = "all of them" if count == self.missing else f"{count:,} of them"
        return f"{which} {_EXPLANATIONS[key].format(word=word)}"

    @cached_property
    def _has_capitals(self) -> bool:
        words = self._vocabulary.words
        return any(word != word.lower() for word in words if len(word) > 1 and word[0] not in "<[")

    @cached_property
    def _has_marks(self) -> bool:
        return not self._vocabulary.index.keys().isdisjoint(_SENTENCE_MARKS)

    @cached_property
    def _has_pieces(self) -> bool:
        return any(is_piece(word) for word in self._vocabulary.words)

    @cached_property
    def _is_raw(self) -> bool:
        return is_raw(self._vocabulary.words)

    @cached_property
    def _numbers_are_n(self) -> bool:
        index = self._vocabulary.index
        return "N" in index and not any(word.isdigit() for word in index)

    def _reason(self, word: str) -> str | None:
        """Return what would make a word known, if anything would."""
        if len(word) > LONGEST_TRIED:
            return "spaces"
        if word in SPELLINGS_OF_UNKNOWN:
            return "spelling"
        if word in BOUNDARY_MARKERS:
            return "markers"
        if is_piece(word) and not self._has_pieces:
            return "pieces"
        for reason, change in _PLAIN_CHANGES.items():
            if self._knows(change(word), word):
                return reason
        if self._numbers_are_n and _NUMBER.fullmatch(word):
            return "numbers"
        if any(self._knows(other, word) for other in _recased(word)):
            return "case"
        if self._is_raw:  # there, marks belong to words
            return "spaces" if self._is_run_on(word) else None
        pieces = _PIECE.findall(_CLITIC.sub(r" \1", word.translate(_PLAIN)))
        if not pieces:
            are_known = all(mark in self._vocabulary.index for mark in word.translate(_PLAIN))
            known_reason = "separate" if are_known and len(word) > 1 else None
            return known_reason if self._has_marks else "marks"
        if pieces != [word]:
            if all(piece in self._vocabulary.index for piece in pieces):
                return "separate"
            recased = [{piece, *_recased(piece)} for piece in pieces]
            if all(any(each in self._vocabulary.index for each in every) for every in recased):
                return "both"
        if word != word.lower() and not self._has_capitals:
            return "case"
        if self._is_run_on(word):
            return "spaces"
        return None

    def _knows(self, changed: str, word: str) -> bool:
        return changed != word and changed in self._vocabulary.index

    def _is_run_on(self, word: str) -> bool:
        """Return whether a word looks like several that nothing separates."""
        if len(word) >= LONGEST_PLAIN:
            return True
        if not is_unspaced(word):
            return False
        return len(word) > 6 or all(character in self._vocabulary.index for character in word)


def _recased(word: str) -> Iterator[str]:
    yield word.lower()
    yield word.capitalize()
    yield word.title()
    yield word.upper()
