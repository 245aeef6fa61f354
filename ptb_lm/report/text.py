"""A report as text for a terminal: the paper's figures of each model, and below them ours."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from ptb_lm.report.averages import Reached
from ptb_lm.report.columns import Line, in_columns
from ptb_lm.report.comparison import ELSEWHERE_TITLE, HEADING, NOT_YET_RUN, TITLE, Comparison, Row
from ptb_lm.report.groups import Group
from ptb_lm.report.published import Elsewhere
from ptb_lm.training.run_folder import SCORED_SPLITS

WIDTH = 80
"""Columns of a terminal; only a name may be longer."""

INDENT = "  "
NONE = "-"


def report_text(comparison: Comparison) -> str:
    """Return what ``report`` prints on a terminal."""
    parts = []
    if comparison.has_published:
        parts += [
            TITLE,
            _table(_paper_lines(comparison.paper)),
            *_scored_in(comparison.paper),
            ELSEWHERE_TITLE,
            _table(_elsewhere_lines(comparison.elsewhere)),
        ]
    if comparison.others:
        parts += [
            "Other runs" if comparison.has_published else HEADING,
            _table(_other_lines(comparison.others)),
        ]
    return "\n\n".join([*parts, *(textwrap.fill(note, WIDTH) for note in comparison.notes)])


def _table(lines: Iterator[Line]) -> str:
    return "\n".join(in_columns(list(lines), on_terminal=True))


def _paper_lines(rows: Sequence[Row]) -> Iterator[Line]:
    """Yield the paper's figures of a model or an average, and indented below them ours."""
    yield "the paper's; indented: ours", ["valid", "", "test", "", "difference, %"]
    for title, same in groupby(rows, key=lambda row: row.title):
        ours = list(same)
        paper = ours[0].paper
        # A space for the second decimal, which ours have.
        figures = [f"{paper.valid} ", "", f"{paper.test} "] if paper else [NONE, "", NONE]
        is_run = any(row.group for row in ours)
        yield title, figures if is_run else [*figures, "", NOT_YET_RUN]
        for row in ours if is_run else []:
            yield from _reached_lines(row)


def _reached_lines(row: Row) -> Iterator[Line]:
    """Yield what runs reach, or why they do not yet."""
    if row.reached is None:
        yield f"{INDENT}{row.status}", []
        return
    percent = row.difference
    difference = [" / ".join(percent.signed)] if percent else []
    cells = [cell for split in SCORED_SPLITS for cell in _estimate(row.reached, split)]
    yield f"{INDENT}{row.reached.over}, {row.precision}", [*cells, *difference]


def _estimate(reached: Reached, split: str) -> tuple[str, str]:
    """Return a mean and its deviation; of data without a test text there is none."""
    if split not in reached.perplexity:
        return "none", ""
    estimate = reached.perplexity[split]
    return estimate.shown, estimate.spread


def _scored_in(rows: Sequence[Row]) -> list[str]:
    """Say what the figures of the paper's models are of: of all the same."""
    scored = [_scored(row.reached) for row in rows if row.reached]
    return [scored[0]] if scored else []


def _scored(reached: Reached) -> str:
    return "; ".join(f"{split}: {how} tokens" for split, how in reached.scored.items())


def _elsewhere_lines(figures: Sequence[tuple[Elsewhere, Sequence[Row]]]) -> Iterator[Line]:
    """Yield what others have published, below each model."""
    yield "", ["valid", "test"]
    for model, same in groupby((figure for figure, _ in figures), key=lambda each: each.model):
        yield model, []
        for figure in same:
            yield f"{INDENT}{figure.source}", [f"{figure.valid or NONE}", f"{figure.test}"]


def _other_lines(rows: Sequence[Row]) -> Iterator[Line]:
    """Yield what runs that are not the paper's reach, below what they are."""
    yield "", ["valid", "", "test"]
    for group, same in groupby(rows, key=lambda row: row.group):
        assert group is not None
        ours = list(same)
        yield group.title, []
        for fact in _facts(group, [row.reached for row in ours if row.reached]):
            for line in textwrap.wrap(fact, WIDTH - len(INDENT), break_long_words=False):
                yield f"{INDENT}{line}", []
        for row in ours:
            yield from _reached_lines(row)


def _facts(group: Group, reached: Sequence[Reached]) -> Iterator[str]:
    """Say what runs were made of, which they are, and what they have scored."""
    if not reached:
        yield f"data {group.data}"
        return
    words = reached[0].scored["valid"].text.vocabulary_size
    yield f"data {group.data}, {words:,} words"
    yield f"run{'s' * (len(group.finished) > 1)} {', '.join(run.name for run in group.finished)}"
    yield _scored(reached[0])
