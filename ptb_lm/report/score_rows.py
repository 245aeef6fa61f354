"""Scored text as rows for other programs: tab-separated values, or a JSON object a line.

The names of the columns carry the units. TSV is Python's dialect ``excel-tab``, with line feeds: a
field that holds a quotation mark is quoted, with its own marks doubled. No field holds a tab or a
line end, as all are split at white space. A missing value is an empty field; true is 1.
"""

import csv
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
    """A hypothesis of an utterance; ``rank`` 1 is the likeliest.

    ``words`` counts its words, without ``<eos>``, and ``unknown`` those scored as ``<unk>``.
    """

    id: str
    rank: int
    log_probability_nats: float
    text: str
    words: int
    unknown: int


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
        source, score = ranked.hypothesis, ranked.score
        yield HypothesisRow(
            source.id,
            ranked.rank,
            score.log_probability,
            source.text,
            len(score.words),
            score.unknown_words,
        )


Row = LineRow | WordRow | HypothesisRow


class _Returned:
    """A file for ``csv.writer``, whose ``writerow`` returns what ``write`` does: the line."""

    def write(self, line: str) -> str:
        return line


def as_tsv(rows: Iterable[Row], kind: type[Row]) -> Iterator[str]:
    """Write rows under a header, which is there even if they are not.

    It waits for the first row: of an input that cannot be scored nothing is written.
    """
    writer = csv.writer(_Returned(), "excel-tab", lineterminator="")
    rest = iter(rows)
    first = list(islice(rest, 1))
    yield writer.writerow(kind._fields)
    for row in chain(first, rest):
        yield writer.writerow(map(_field, row))


def as_json_lines(rows: Iterable[Row]) -> Iterator[str]:
    """Write each row as a JSON object with the columns' names as keys."""
    for row in rows:
        yield to_json(row._asdict())


def _field(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.8g}"
    return str(int(value) if isinstance(value, bool) else value)
