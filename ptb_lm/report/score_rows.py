"""Scored text as rows for other programs: tab-separated values, or a JSON object a line.

The names of the columns carry the units. In TSV nothing is quoted, as a word holds no white space;
what there is no value for is empty, and yes is 1.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from ptb_lm.corpus.text import EOS
from ptb_lm.strict_json import to_json

if TYPE_CHECKING:  # they import torch
    from ptb_lm.evaluation.nbest import RankedHypothesis
    from ptb_lm.evaluation.score import SentenceScore


class LineRow(NamedTuple):
    """A line of text: ``words`` without ``<eos>``, ``tokens`` with it."""

    line: int
    words: int
    tokens: int
    unknown: int
    log_probability_nats: float
    perplexity: float


class WordRow(NamedTuple):
    """A word of a line, or the ``<eos>`` after them; ``position`` counts from 1."""

    line: int
    position: int
    word: str
    surprisal_bits: float
    unknown: bool


class HypothesisRow(NamedTuple):
    """A hypothesis of an utterance; ``rank`` 1 is the likeliest."""

    id: str
    rank: int
    log_probability_nats: float
    text: str


def line_rows(scores: Iterable["SentenceScore"]) -> Iterator[LineRow]:
    """Give a row for each line."""
    for number, score in enumerate(scores, 1):
        yield LineRow(
            number,
            len(score.words),
            score.tokens,
            score.unknown_words,
            score.log_probability,
            score.perplexity,
        )


def word_rows(scores: Iterable["SentenceScore"]) -> Iterator[WordRow]:
    """Give a row for each word, and one for each ``<eos>``: together they are the line's score."""
    for number, score in enumerate(scores, 1):
        unknown = [*score.unknown.tolist(), False]
        tokens = zip([*score.words, EOS], score.surprisals.tolist(), unknown, strict=True)
        for position, (word, bits, is_unknown) in enumerate(tokens, 1):
            yield WordRow(number, position, word, bits, is_unknown)


def hypothesis_rows(hypotheses: Iterable["RankedHypothesis"]) -> Iterator[HypothesisRow]:
    """Give a row for each hypothesis."""
    for ranked in hypotheses:
        source, log_probability = ranked.hypothesis, ranked.score.log_probability
        yield HypothesisRow(source.id, ranked.rank, log_probability, source.text)


Row = LineRow | WordRow | HypothesisRow


def as_tsv(rows: Iterable[Row], kind: type[Row]) -> Iterator[str]:
    """Write rows under a header, which is there even if they are not.

    It waits for the first row: of an input that cannot be scored nothing is written.
    """
    rest = iter(rows)
    first = list(islice(rest, 1))
    yield "\t".join(kind._fields)
    for row in chain(first, rest):
        yield "\t".join(map(_field, row))


def as_json_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Write each row as a JSON object with the columns' names as keys."""
    for row in rows:
        yield to_json(row._asdict())


def _field(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.8g}"
    return str(int(value) if isinstance(value, bool) else value)
