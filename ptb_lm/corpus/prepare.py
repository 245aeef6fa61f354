"""A user's own text as a corpus: its lines in splits, its rare words as ``<unk>``.

Which lines a split gets is drawn; within each they stay in order. The text is read once, and in
memory are its tokens, 4 bytes each, a byte a line, and its types.

Shapes: N tokens of the text, L lines, V types as they are written in it, S splits.
"""

import os
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptb_lm.arguments import (
    require_integer,
    require_number,
    require_path,
    require_paths,
    require_type,
)
from ptb_lm.corpus.findings import (
    Finding,
    TextFacts,
    UnknownShare,
    announced,
    explain_unknown,
    file_findings,
    ordinary_words,
    repetition_findings,
    text_findings,
    unknown_findings,
)
from ptb_lm.corpus.lines import LineHashBuffer, count_blank_lines, line_hashes
from ptb_lm.corpus.oddities import Oddities
from ptb_lm.corpus.reading import (
    STANDARD_INPUT,
    name_of,
    progress,
    read_words,
    require_readable,
)
from ptb_lm.corpus.splits import SPLITS, split_file
from ptb_lm.corpus.text import BYTE_ORDER_MARK, EOS, UNK
from ptb_lm.corpus.tokens import TokenBuffer, TokenIds, parts_of
from ptb_lm.corpus.unknown import is_raw
from ptb_lm.corpus.vocabulary import WordIds
from ptb_lm.durable import current_folder_is_in, durable_folder
from ptb_lm.errors import InputError
from ptb_lm.lock import place_held
from ptb_lm.stop import NEVER, StopFlag

LINE_END = "\0"
"""Ends a line here: an ``<eos>`` may be a text's own, a NUL never is."""

LINE_END_NUMBER = 0
NEVER_REPLACED = {LINE_END, EOS, UNK}


@dataclass(frozen=True)
class Preparation:
    """How a text is made into a corpus.

    Attributes:
        valid_share: of the lines, those for validation; more than 0.
        test_share: those for the test; 0: no test text. What is left is for training.
        lower: put words into lower case.
        min_count: words that the training text has less often become ``<unk>``. By default 2, so
            that a model meets ``<unk>`` in training, and every word twice.
        max_vocab: the most types of the vocabulary, ``<eos>`` and ``<unk>`` among them: the most
            frequent stay, of equals the first by their code points. None: all.
        seed: of the draw of the lines.
    """

    valid_share: float = 0.05
    test_share: float = 0.05
    lower: bool = False
    min_count: int = 2
    max_vocab: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < require_number(self.valid_share, "valid_share") < 1:
            raise InputError(
                f"--valid-share {self.valid_share}: expected more than 0 and less than 1"
            )
        if not 0 <= require_number(self.test_share, "test_share") < 1 - self.valid_share:
            raise InputError(
                f"--test-share {self.test_share}: expected 0 or more, and with --valid-share "
                f"{self.valid_share} less than 1"
            )
        require_type(self.lower, bool, "lower")
        if require_integer(self.min_count, "min_count") < 1:
            raise InputError(f"--min-count {self.min_count}: expected 1 or more")
        if self.max_vocab is not None and require_integer(self.max_vocab, "max_vocab") < 3:
            raise InputError(
                f"--max-vocab {self.max_vocab}: expected 3 or more, as {EOS} and {UNK} count"
            )
        if require_integer(self.seed, "seed") < 0:
            raise InputError(f"--seed {self.seed}: expected 0 or more")

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits to make."""
        return SPLITS if self.test_share else SPLITS[:2]


DEFAULT = Preparation()


def prepare(
    files: Iterable[Path | str] | Path | str,
    out: Path | str,
    preparation: Preparation = DEFAULT,
    *,
    overwrite: bool = False,
    stop: StopFlag = NEVER,
) -> dict[str, Any]:
    """Make a folder of train.txt, valid.txt and, unless its share is 0, test.txt from text files.

    Each line of the files, one after the other, is a line of one of them. The folder is there as a
    whole or not at all, and the same call makes the same bytes.

    Args:
        files: texts in UTF-8, or a single one; ``-`` is standard input.
        out: the folder; those above it are made where they are missing.
        preparation: how.
        overwrite: whether a corpus that is there may be replaced.
        stop: checked throughout.

    Returns:
        ``folder``, the settings, ``types`` of the vocabulary, and for each split ``lines``,
        ``tokens``, ``types`` and ``unknown_share``. ``<eos>`` counts as a token and as a type.
        Also ``warnings``, see :class:`~ptb_lm.corpus.findings.Finding`, which are logged too.

    Raises:
        TypeError: an argument is of the wrong type.
        InputError: a file is no text, the text is too short, or the folder may not be replaced.
        PtbLmError: the folder cannot be written.
        Stopped: a signal came; nothing was written.
    """
    require_type(preparation, Preparation, "preparation", "try Preparation(min_count=2)")
    sources, folder = require_paths(files, "files"), require_path(out, "out")
    if not sources:
        raise InputError("files: no text; name one or more")
    if sources.count(STANDARD_INPUT) > 1:
        raise InputError(f"{STANDARD_INPUT}: standard input comes once; name it once")
    require_readable(source for source in sources if source != STANDARD_INPUT)
    _require_free(folder, sources, overwrite=overwrite)
    text = _Text.read(sources, preparation, stop)
    counts = text.counts(stop)
    peculiar = text_findings(text.facts(counts.sum(0)))
    with _explained(peculiar):
        spelling = _spelling(text, counts[0], preparation)
    description = {
        "folder": str(folder),
        **asdict(preparation),
        "types": len({*spelling, UNK}),
        "splits": {
            split: _described(spelling, counts[index])
            for index, split in enumerate(preparation.splits)
        },
    }
    with _explained(peculiar):
        _require_words(description["splits"], text.name)
    words = {*spelling}
    given = int(counts[:, text.words.index(UNK)].sum()) if UNK in text.words else 0
    found = [
        *peculiar,
        *_unknown_findings(description["splits"], words, preparation, peculiar, given),
    ]
    found += _repetition_findings(text, spelling, preparation, stop)
    with place_held(folder, stop) as place:
        _require_free(folder, sources, overwrite=overwrite)  # as another may have been quicker
        with durable_folder(place, replace=overwrite) as new:
            _write(text, spelling, [split_file(new, split) for split in preparation.splits], stop)
    return {**description, "warnings": announced(found)}


@contextmanager
def _explained(peculiar: Sequence[Finding]) -> Iterator[None]:
    """Add to an error within what is peculiar about the text, as that may be its cause."""
    try:
        yield
    except InputError as error:
        if not peculiar:
            raise
        raise InputError("; ".join([str(error), *(each.message for each in peculiar)])) from None


def _require_free(folder: Path, sources: Sequence[Path], *, overwrite: bool) -> None:
    """Raise InputError if there is something at a place that may not go."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(f"--out {folder}: not a folder; name a folder for the corpus")
    if current_folder_is_in(folder):
        raise InputError(f"--out {folder}: the current folder is in it; name a folder of its own")
    names = sorted(entry.name for entry in folder.iterdir())
    if names and not overwrite:
        raise InputError(
            f"--out {folder}: there already; use --overwrite to replace it, or name another folder"
        )
    for name in names:
        if name not in {split_file(folder, split).name for split in SPLITS}:
            raise InputError(
                f"--out {folder}: {name} in it is no part of a corpus and would go; name another "
                "folder"
            )
    for source in sources:
        if source != STANDARD_INPUT and source.resolve().parent == folder.resolve():
            raise InputError(f"--out {folder}: {source} is in it and would go; name another folder")


@dataclass(frozen=True)
class _Text:
    """A text in memory.

    Attributes:
        name: what it is called in a message.
        words: its types as they are written in it, by their numbers.
        tokens: these numbers, (N,), :data:`LINE_END_NUMBER` at the end of each line.
        split_of_line: uint8 (L,).
        splits: S.
        files: the characters of each file, by its name.
    """

    name: str
    words: list[str]
    tokens: TokenIds
    split_of_line: NDArray[np.uint8]
    splits: int
    files: dict[str, Oddities]

    @classmethod
    def read(cls, sources: Sequence[Path], preparation: Preparation, stop: StopFlag) -> "_Text":
        """Read files one after the other, and draw the splits of their lines.

        Raises:
            InputError: one of them is no text, or there are too few lines.
            Stopped: a signal came.
        """
        numbers, buffer = WordIds({LINE_END: LINE_END_NUMBER}), TokenBuffer()
        lines = 0
        files = {name_of(source): Oddities() for source in sources}
        for source in sources:
            for words in read_words(source, stop, LINE_END, files[name_of(source)].see):
                buffer.append(numbers.encode(words))
                lines += words.count(LINE_END)
        name = name_of(sources[0]) if len(sources) == 1 else f"{len(sources)} files"
        with _explained([each for file in files.items() for each in file_findings(*file)]):
            split_of_line = _draw(lines, preparation, name, stop)
        tokens, splits = buffer.joined(), len(preparation.splits)
        return cls(name, list(numbers), tokens, split_of_line, splits, files)

    def facts(self, counts: NDArray[np.int64]) -> TextFacts:
        """Return what is known of the text as a whole, given how often it has each type, (V,)."""
        index = {word: number for number, word in enumerate(self.words)}
        lines, blank = len(self.split_of_line), count_blank_lines(self.tokens, LINE_END_NUMBER)
        of_words = counts.copy()
        of_words[LINE_END_NUMBER] = 0
        written = int(of_words[index[EOS]]) if EOS in index else 0
        return TextFacts(self.name, index, of_words, lines, blank, written, self.files)

    def parts(self, stop: StopFlag) -> Iterator[tuple[int, TokenIds]]:
        """Yield the text in order, part by part, each with the number of its split."""
        line = 0
        for part in parts_of(self.tokens):
            stop.check()
            ends = part == LINE_END_NUMBER
            ended = np.cumsum(ends)
            split = self.split_of_line[line + ended - ends]  # of each token
            line += int(ended[-1])
            for index in range(self.splits):
                yield index, part[split == index]

    def counts(self, stop: StopFlag) -> NDArray[np.int64]:
        """Return how often each split has each type, (S, V)."""
        counts = np.zeros((self.splits, len(self.words)), np.int64)
        for split, tokens in self.parts(stop):
            counts[split] += np.bincount(tokens, minlength=len(self.words))
        return counts


def _draw(lines: int, preparation: Preparation, name: str, stop: StopFlag) -> NDArray[np.uint8]:
    """Draw the split of each line, (L,): each set of so many lines is as likely as any other.

    Line after line is taken with the probability that what is still wanted has among what is left
    (Knuth, The Art of Computer Programming, volume 2, section 3.4.2, algorithm S). It needs
    nothing of the generator but ``random()``, which is the same on every version of Python.

    Raises:
        InputError: there are too few lines.
        Stopped: a signal came.
    """
    valid = max(1, round(lines * preparation.valid_share))
    test = max(1, round(lines * preparation.test_share)) if preparation.test_share else 0
    if lines <= valid + test:
        raise InputError(
            f"{name}: too few lines ({lines:,}) to be cut into {', '.join(preparation.splits)}; "
            "a line is a sentence, give more of them"
        )
    split_of_line = bytearray(lines)
    draw = random.Random(preparation.seed).random
    for line in range(lines):
        drawn = draw() * (lines - line)
        if drawn < valid:
            split_of_line[line] = 1
            valid -= 1
        elif drawn < valid + test:
            split_of_line[line] = 2
            test -= 1
        if line % 1_000_000 == 0:
            stop.check()
    return np.frombuffer(split_of_line, np.uint8)


def _spelling(text: _Text, trained: NDArray[np.int64], preparation: Preparation) -> list[str]:
    """Return what each type becomes: itself, perhaps in lower case, or ``<unk>``.

    Args:
        text: with V types.
        trained: how often the training text has each, (V,).
        preparation: which of them stay.

    Raises:
        InputError: none would.
    """
    words = [word.lower() for word in text.words] if preparation.lower else text.words
    counts: Counter[str] = Counter()
    for word, count in zip(words, trained.tolist(), strict=True):
        counts[word] += count
    for special in NEVER_REPLACED:
        counts.pop(special, None)
    kept = {word for word, count in counts.items() if count >= preparation.min_count}
    if preparation.max_vocab is not None and len(kept) > preparation.max_vocab - 2:
        by_frequency = sorted(kept, key=lambda word: (-counts[word], word))
        kept = {*by_frequency[: preparation.max_vocab - 2]}
    if not kept:
        most = max(counts.values(), default=0)
        # With --min-count 1 the training text would have no <unk>.
        remedy = "lower it, or give more text" if most > 1 else "give more text"
        raise InputError(
            f"{text.name}: --min-count {preparation.min_count} leaves no word, as the most "
            f"frequent comes {most:,} times in the training lines; {remedy}"
        )
    kept |= NEVER_REPLACED
    return [EOS if word == LINE_END else word if word in kept else UNK for word in words]


def _described(spelling: Sequence[str], counts: NDArray[np.int64]) -> dict[str, Any]:
    """Describe a split, given how often it has each type, (V,)."""
    written: Counter[str] = Counter()
    for number in np.flatnonzero(counts).tolist():
        written[spelling[number]] += int(counts[number])
    return {
        "lines": int(counts[LINE_END_NUMBER]),
        "tokens": written.total(),
        "types": len(written),
        "unknown_share": written[UNK] / written.total(),
    }


def _require_words(splits: Mapping[str, dict[str, Any]], name: str) -> None:
    """Raise InputError if a split has empty lines alone."""
    for split, facts in splits.items():
        if facts["types"] == 1:  # which is <eos>
            raise InputError(
                f"{name}: no word in the {facts['lines']:,} lines drawn for {split}; give more "
                "text, a larger share, or another --seed"
            )


def _unknown_findings(
    splits: Mapping[str, dict[str, Any]],
    words: Collection[str],
    preparation: Preparation,
    peculiar: Sequence[Finding],
    given: int,
) -> Iterator[Finding]:
    """Find too much or too little ``<unk>``, with what changes it.

    Args:
        splits: what is known of each.
        words: the vocabulary.
        preparation: the options.
        peculiar: what has been found already.
        given: how often ``<unk>`` stands in the text itself.
    """
    shares = {
        split: UnknownShare(round(facts["unknown_share"] * facts["tokens"]), facts["tokens"])
        for split, facts in splits.items()
    }
    # --min-count 2 is not to be lowered: with 1 there would be no <unk> to learn from.
    options = [
        *(["raise --max-vocab"] if preparation.max_vocab is not None else []),
        *(["lower --min-count"] if preparation.min_count > 2 else []),
        *([] if preparation.lower else ["use --lower"]),
        *(["put spaces around punctuation"] if is_raw(words) else []),
    ]
    too_many = " or ".join(["give more text", *options])
    if 2 * given > sum(share.unknown for share in shares.values()):
        too_many = f"the text itself has {given:,} of them: give one with fewer"
    return unknown_findings(
        shares,
        is_explained=explain_unknown(peculiar),
        without="--min-count 2 or more makes some",
        too_many=too_many,
    )


def _repetition_findings(
    text: _Text, spelling: Sequence[str], preparation: Preparation, stop: StopFlag
) -> Iterator[Finding]:
    """Find lines that stand in several splits as they are written there."""
    numbers = WordIds({LINE_END: LINE_END_NUMBER})
    written = numbers.encode([LINE_END, *spelling[1:]])  # an <eos> in a line does not end it

    def parts() -> Iterator[TokenIds]:
        for part in parts_of(text.tokens):
            stop.check()
            yield written[part]

    lines = np.bincount(text.split_of_line, minlength=text.splits)
    drawn = [LineHashBuffer(count) for count in lines.tolist()]
    line = 0
    for hashes in line_hashes(parts(), LINE_END_NUMBER, ordinary_words(numbers)):
        split = text.split_of_line[line : line + len(hashes)]
        line += len(hashes)
        for index, buffer in enumerate(drawn):
            buffer.append(hashes[split == index])
    train, *others = (buffer.hashes for buffer in drawn)
    return repetition_findings(dict(zip(preparation.splits[1:], others, strict=True)), train)


def _write(text: _Text, spelling: Sequence[str], files: Sequence[Path], stop: StopFlag) -> None:
    """Write a text, a line a line, its words with a space between them."""
    words = ["\n", *spelling[1:]]
    begins_file, begins_line = [True] * len(files), [True] * len(files)
    with ExitStack() as stack:
        outputs = [
            stack.enter_context(file.open("w", encoding="utf-8", newline="")) for file in files
        ]
        bar = stack.enter_context(progress("writing", len(text.tokens), " tokens"))
        for split, tokens in text.parts(stop):
            bar.update(len(tokens))
            if not len(tokens):
                continue
            part = " " + " ".join([words[number] for number in tokens.tolist()])
            part = part.replace(" \n", "\n").replace("\n ", "\n")
            # Where it begins a file, a word may begin with what would be taken for its mark.
            if begins_line[split] and not (begins_file[split] and part[1:2] == BYTE_ORDER_MARK):
                part = part.removeprefix(" ")
            outputs[split].write(part)
            begins_file[split], begins_line[split] = False, part[-1] == "\n"
