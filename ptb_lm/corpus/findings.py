"""Findings about a corpus that its user should know before training on it.

Each finding is one line with a count and a remedy. None of them changes what is read.
"""

import logging
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptb_lm.config import BUILT_IN
from ptb_lm.corpus.lines import (
    LONG_LINE,
    LineHashes,
    are_in,
    count_blank_lines,
    line_hashes,
    share_of_copies,
)
from ptb_lm.corpus.load import Corpus
from ptb_lm.corpus.oddities import LINE_SEPARATORS, Oddities
from ptb_lm.corpus.reading import STANDARD_INPUT, name_of
from ptb_lm.corpus.splits import files_like
from ptb_lm.corpus.text import EOS, UNK
from ptb_lm.corpus.tokens import PART_TOKENS, count_types, parts_of
from ptb_lm.corpus.unknown import BOUNDARY_MARKERS, SPELLINGS_OF_UNKNOWN, is_unspaced
from ptb_lm.paths import named_path
from ptb_lm.stop import NEVER, StopFlag

logger = logging.getLogger(__name__)

MOST_UNKNOWN = 0.1
"""The greatest share of ``<unk>`` that passes without a word; the Penn Treebank has 0.05."""

MOST_REPEATED = 0.02
"""The same for long lines that the training text has too; the Penn Treebank has 0.015."""

MOST_REPEATED_BY_CHANCE = 0.5
"""The same for a text whose training part repeats its own lines."""

FEWEST_LONG_LINES = 10
"""A split with fewer is judged by all its lines."""

MOST_SHORT_REPEATED = 0.9
"""The greatest share of repeated lines that passes in a split of short lines."""

MOST_BLANK = 0.001
"""The same for blank lines."""

MOST_OTHER_LINE_ENDS = 0.01
"""The same for line ends of Unicode, for each line feed."""

LONGEST_MEAN_WORD = 20
LONGEST_MEAN_UNSPACED_WORD = 6
"""Texts with longer words on average have no spaces; the second is for Chinese and the like."""

TYPES_SAMPLED = 10_000

_TAGS = tuple(marker for marker in BOUNDARY_MARKERS | {EOS} if marker.startswith("<"))


@dataclass(frozen=True)
class Finding:
    """Something about a corpus that its user should know.

    Attributes:
        kind: a name for programs, the same in every version.
        count: how often it was found: lines, tokens or characters, as the message says.
        message: one line: where, what, how often, and the remedy.
    """

    kind: str
    count: int
    message: str


def announced(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """Write findings to the log, and return them as ``--json`` prints them."""
    listed = list(findings)
    for finding in listed:
        logger.warning("%s", finding.message)
    return [asdict(finding) for finding in listed]


@dataclass(frozen=True)
class TextFacts:
    """The facts that the findings about one text are made from.

    Attributes:
        name: the file, or another name that a message begins with.
        index: the number of each word that the text may have, from 0, in order.
        counts: how often the text has each, int64 (V,), without what ends its lines.
        lines: how many lines it has.
        blank_lines: how many of them have no word.
        written_eos: how often ``<eos>`` is written in a line.
        files: the characters of its files, by their names.
    """

    name: str
    index: Mapping[str, int]
    counts: NDArray[np.int64]
    lines: int
    blank_lines: int
    written_eos: int
    files: Mapping[str, Oddities] = field(default_factory=dict)


@dataclass(frozen=True)
class UnknownShare:
    """How many tokens of a split are ``<unk>``, written or missing in the vocabulary."""

    unknown: int
    tokens: int

    @property
    def share(self) -> float:
        """The share of the tokens, between 0 and 1."""
        return self.unknown / self.tokens

    def __str__(self) -> str:
        return f"{self.unknown:,} of {self.tokens:,} tokens, {100 * self.share:.1f} %"


def corpus_findings(corpus: Corpus, stop: StopFlag = NEVER) -> list[Finding]:
    """Return what is peculiar about a corpus in a user's own folder.

    Raises:
        Stopped: a signal came.
    """
    if corpus.name in BUILT_IN:  # known to the byte
        return []
    folder, index = named_path(corpus.name), corpus.vocabulary.index
    texts, shares = [], {}
    for split, tokens in corpus.splits.items():
        stop.check()
        file, oddities = corpus.place(split), corpus.oddities[split]
        counts, written = count_types(tokens, len(index)), oddities.written_eos
        lines = max(0, int(counts[index[EOS]]) - written)
        blank = max(0, count_blank_lines(tokens, index[EOS]) - written)
        counts[index[EOS]] = 0
        texts.append(TextFacts(file, index, counts, lines, blank, written, {file: oddities}))
        # Where something explains the unknown words, that is reported below, with its remedy.
        if split == "train" or corpus.unknown[split].explanation() is None:
            shares[file] = UnknownShare(int(counts[index[UNK]]), len(tokens))
    found = [finding for facts in texts for finding in text_findings(facts)]
    found += unknown_findings(
        shares,
        is_explained=explain_unknown(found),
        without="`ptb-lm data prepare` makes some of rare words",
        too_many="give more text, so that fewer words are rare",
    )
    has_unknown = bool(corpus.unknown["train"].written)
    has_spaces = all(finding.kind != "no-spaces" for finding in found)
    for split, unknown in corpus.unknown.items() if has_spaces else ():
        message = unknown.message(corpus.place(split))
        if message is not None and (has_unknown or unknown.explanation()):
            found.append(Finding("unknown-words", unknown.missing, message))
    others = {
        corpus.place(split): np.concatenate([*_hashes(corpus, split, stop)])
        for split in corpus.splits
        if split != "train"
    }
    for split in corpus.splits:
        if split != "train" and np.array_equal(corpus.splits[split], corpus.splits["train"]):
            found.append(_same_text(corpus, split))
            del others[corpus.place(split)]
    train = np.concatenate([*_hashes(corpus, "train", stop)])
    found += repetition_findings(others, train, corpus.place("train"))
    return [*found, *_missing_test(folder, corpus)]


def _same_text(corpus: Corpus, split: str) -> Finding:
    file, train = corpus.place(split), corpus.place("train")
    message = f"{file} is the same text as {train}, so that its perplexity is too low; give another"
    return Finding("same-text", len(corpus.splits[split]), message)


def _hashes(corpus: Corpus, split: str, stop: StopFlag) -> Iterator[LineHashes]:
    index = corpus.vocabulary.index
    parts = parts_of(corpus.splits[split])
    for part in line_hashes(parts, index[EOS], ordinary_words(index)):
        stop.check()
        yield part


def ordinary_words(index: Mapping[str, int]) -> NDArray[np.bool_]:
    """Return which words of a vocabulary a text could be recognized by, (V,): no markers."""
    are_ordinary = np.ones(len(index), bool)
    others = {EOS, UNK} | BOUNDARY_MARKERS | SPELLINGS_OF_UNKNOWN
    are_ordinary[[index[word] for word in others if word in index]] = False
    return are_ordinary


def _missing_test(folder: Path, corpus: Corpus) -> Iterator[Finding]:
    names = [] if "test" in corpus.splits else files_like(folder, "test")
    if names:
        message = (
            f"{folder}: there is no test.txt, so there will be no test perplexity; if {names[0]} "
            "is the test text, rename it to test.txt"
        )
        yield Finding("no-test", len(names), message)


def text_findings(facts: TextFacts) -> list[Finding]:
    """Return what is peculiar about one text, without regard to other texts."""
    return [
        *(found for name, file in facts.files.items() for found in file_findings(name, file)),
        *_marker_findings(facts),
        *_blank_line_findings(facts),
        *_space_findings(facts),
    ]


def file_findings(name: str, oddities: Oddities) -> Iterator[Finding]:
    """Find other line ends than line feeds, and byte order marks inside a file."""
    for character, count in oddities.separators.items():
        # Those of Unicode may stand in an ordinary text now and then; a CR alone does not.
        if not count or (character != "\r" and count < MOST_OTHER_LINE_ENDS * oddities.line_feeds):
            continue
        remedy = "replace them by line feeds"
        if character == "\r":
            remedy += f", as with: tr -s '\\r' '\\n' < {_shell_name(name)}"
        yield Finding(
            "line-ends",
            count,
            f"{name}: {count:,} lines are ended by {LINE_SEPARATORS[character]} alone, which ends "
            f"no sentence here as a line feed does (there are {oddities.line_feeds:,}); {remedy}",
        )
    if oddities.marks:
        yield Finding(
            "byte-order-marks",
            oddities.marks,
            f"{name}: {oddities.marks:,} byte order marks inside the file become part of words; "
            f"remove them, as with: sed 's/\\xef\\xbb\\xbf//g' {_shell_name(name)}",
        )


def _shell_name(name: str) -> str:
    """Return a file's name for a command line; one that is compressed has to be unpacked first."""
    is_plain = name != name_of(STANDARD_INPUT) and Path(name).suffix not in (".gz", ".bz2", ".xz")
    return shlex.quote(name) if is_plain else "FILE"


def _marker_findings(facts: TextFacts) -> Iterator[Finding]:
    """Find what other programs write for the ends of sentences and for unknown words."""
    if facts.written_eos:
        yield Finding(
            "eos-in-lines",
            facts.written_eos,
            f"{facts.name}: {facts.written_eos:,} words are {EOS}, but each line is ended with "
            f"{EOS} as it is read; remove them, as with: {_replacing([EOS])}",
        )
    count, names = _found(facts, BOUNDARY_MARKERS)
    if count:
        yield Finding(
            "sentence-markers",
            count,
            f"{facts.name}: {count:,} words are {' or '.join(names)}, which makes the perplexity "
            f"too low; each line is ended with {EOS} already: remove them, as with: "
            f"{_replacing(names)}",
        )
    count, names = _found(facts, SPELLINGS_OF_UNKNOWN)
    if count:
        yield Finding(
            "other-unknown",
            count,
            f"{facts.name}: {count:,} words are {' or '.join(names)} and count as ordinary words; "
            f"only {UNK} is the unknown word: write it so, as with: {_replacing(names, UNK)}",
        )
    tagged = [word for word in facts.index if "<" in word and word not in _TAGS]
    attached = {
        f"a sentence marker, and each line is ended with {EOS} already; remove it": [
            word for word in tagged if word.startswith(_TAGS) or word.endswith(_TAGS)
        ],
        f"{UNK}, which counts only as a word of its own; put spaces around it": [
            word for word in tagged if UNK in word and _is_punctuated_unknown(word)
        ],
    }
    for remedy, words in attached.items():
        count, names = _found(facts, words)
        if count:
            message = f"{facts.name}: {count:,} words, such as {names[0]}, are attached to {remedy}"
            yield Finding("attached-markers", count, message)


def _is_punctuated_unknown(word: str) -> bool:
    rest = word.replace(UNK, "", 1)
    return bool(rest) and not any(map(str.isalnum, rest))


def _replacing(words: Iterable[str], replacement: str = "") -> str:
    """Return a command that replaces words: whole ones, whatever others they are a part of."""
    # An @ would stand for a variable of Perl.
    alternatives = "|".join(re.escape(word).replace("@", r"\@") for word in words)
    return f"perl -pe 's{{(?<!\\S)(?:{alternatives})(?!\\S)}}{{{replacement}}}g'"


def _found(facts: TextFacts, words: Iterable[str]) -> tuple[int, list[str]]:
    """Return how often a text has words of a set, and which it has, the most frequent first."""
    numbers = {word: facts.index[word] for word in words if word in facts.index}
    counts = {word: int(facts.counts[number]) for word, number in numbers.items()}
    names = sorted(
        (word for word in counts if counts[word]), key=lambda word: (-counts[word], word)
    )
    return sum(counts.values()), names


def _blank_line_findings(facts: TextFacts) -> Iterator[Finding]:
    if facts.blank_lines > 1 and facts.blank_lines >= MOST_BLANK * facts.lines:
        message = (
            f"{facts.name}: {facts.blank_lines:,} of {facts.lines:,} lines are blank and count as "
            f"sentences of {EOS} alone; remove them, as with: grep -v '^[[:space:]]*$'"
        )
        yield Finding("blank-lines", facts.blank_lines, message)


def _space_findings(facts: TextFacts) -> Iterator[Finding]:
    """Find a text whose words are not separated by spaces."""
    step = max(1, len(facts.index) // TYPES_SAMPLED)
    sampled = zip(islice(facts.index, 0, None, step), facts.counts[::step].tolist(), strict=True)
    sample = {word: count for word, count in sampled if count and word not in (EOS, UNK)}
    total = sum(sample.values())
    if not total:
        return
    length = sum(len(word) * count for word, count in sample.items()) / total
    words, sentences = int(facts.counts.sum()), facts.lines - facts.blank_lines
    is_unspaced_script = 2 * sum(sample[word] for word in sample if is_unspaced(word)) > total
    is_run_on = words < 2 * sentences or length > LONGEST_MEAN_UNSPACED_WORD
    if length > LONGEST_MEAN_WORD or (is_unspaced_script and is_run_on):
        message = (
            f"{facts.name}: the text has no spaces: {words:,} words in {sentences:,} lines, of "
            f"{length:.0f} characters on average; words are split at white space, so segment it "
            "into words, or put a space after each character, as with: sed 's/./& /g'"
        )
        yield Finding("no-spaces", words, message)


def explain_unknown(findings: Iterable[Finding]) -> bool:
    """Return whether findings explain why words are unknown, or why there is no ``<unk>``."""
    return any(finding.kind in ("no-spaces", "other-unknown") for finding in findings)


def unknown_findings(
    shares: Mapping[str, UnknownShare], *, is_explained: bool, without: str, too_many: str
) -> Iterator[Finding]:
    """Find unknown words that a model cannot learn, or too many of them.

    Args:
        shares: of each split, the training text's first, by what to call it.
        is_explained: whether another finding has the remedy, see :func:`explain_unknown`.
        without: how the training text gets ``<unk>``.
        too_many: what to do where it is frequent.
    """
    if is_explained:
        return
    train = next(iter(shares))
    others = {split: share for split, share in shares.items() if share.unknown}
    if others and train not in others:
        where = " and ".join(f"{split} ({share})" for split, share in others.items())
        yield Finding(
            "no-unknown-in-train",
            sum(share.unknown for share in others.values()),
            f"{train} has no {UNK}, so that a model cannot learn how likely it is in {where}; "
            f"{without}",
        )
        return
    many = {split: share for split, share in shares.items() if share.share > MOST_UNKNOWN}
    if many:
        where = " and ".join(f"in {split} ({share})" for split, share in many.items())
        yield Finding(
            "many-unknown",
            sum(share.unknown for share in many.values()),
            f"{UNK} is more than a tenth of the tokens {where}, so that a perplexity says little "
            f"about the words; {too_many}",
        )


def repetition_findings(
    others: Mapping[str, LineHashes], train: LineHashes, train_name: str = "train"
) -> Iterator[Finding]:
    """Find texts of which the training text has a part.

    Short lines are repeated by chance, so that only long ones count where a split has some. In a
    text of few words and forms long lines are repeated too, in the training text as well as between
    the splits: that is reported only if most lines of a split are repeated.

    Args:
        others: hashes of the lines of each other split, by what to call it.
        train: those of the training text; sorted in place.
        train_name: what to call the training text.
    """
    if not others:
        return
    usual, usual_of_all = share_of_copies(train), share_of_copies(train, only_long=False)
    most = min(max(MOST_REPEATED, 2 * usual), MOST_REPEATED_BY_CHANCE)
    parts = np.array_split(train, 1 + len(train) // PART_TOKENS)
    are_repeated = are_in(np.concatenate([*others.values()]), parts)
    for split, hashes in others.items():
        repeated, are_repeated = are_repeated[: len(hashes)], are_repeated[len(hashes) :]
        lines, count = int(np.count_nonzero(hashes)), int(repeated.sum())
        is_long = hashes % np.uint64(2) == 1
        long_lines, long_count = int(is_long.sum()), int((repeated & is_long).sum())
        if long_lines < FEWEST_LONG_LINES:
            share, detail = count / max(lines, FEWEST_LONG_LINES), ""
            is_copied = share > MOST_SHORT_REPEATED > usual_of_all
        else:
            is_copied = long_count > max(1, most * long_lines)
            detail = f" ({long_count:,} of the {long_lines:,} with {LONG_LINE} known words or more)"
        if is_copied:
            yield Finding(
                "repeated-lines",
                count,
                f"{count:,} of {lines:,} lines of {split} stand in {train_name} too{detail}, so "
                "that its perplexity is too low; keep each line once before the text is split, as "
                "with: awk '!seen[$0]++'",
            )
