"""A report as Markdown."""

from collections.abc import Mapping, Sequence

from ptb_lm.report.comparison import ELSEWHERE_TITLE, HEADING, TITLE, Comparison, Row
from ptb_lm.report.curves import curves_title
from ptb_lm.training.run_folder import SCORED_SPLITS

PAPER_HEADS = (
    "model",
    "paper: valid / test",
    "ours: valid / test",
    "difference",
    "over",
    "precision",
    "protocol, tokens: valid / test",
)
OTHER_HEADS = (
    "model",
    "data",
    "vocabulary",
    "runs",
    "valid / test",
    "over",
    "precision",
    "protocol, tokens: valid / test",
)


ELSEWHERE_HEADS = ("model", "published by", "theirs: valid / test", "ours: valid / test")


def report_markdown(comparison: Comparison, figures: Mapping[str, str]) -> str:
    """Return the tables and, where they were drawn, the curves.

    Args:
        comparison: what to show.
        figures: the file of the curves of each group, by its name.
    """
    parts = [f"# {HEADING}"]
    if comparison.has_published:
        parts += [
            f"## {TITLE}",
            paper_table(comparison),
            f"## {ELSEWHERE_TITLE}",
            elsewhere_table(comparison),
        ]
    if comparison.others:
        cells = [_other_cells(row) for row in comparison.others]
        parts += ["## Other runs", markdown_table(OTHER_HEADS, cells)]
    parts += comparison.notes
    if figures:
        parts.append("## Learning curves")
    parts += [
        f"![{_escaped(curves_title(group))}]({figures[group.name]})"
        for group in comparison.groups
        if group.name in figures
    ]
    return "\n\n".join(parts)


def paper_table(comparison: Comparison) -> str:
    """Return the papers' tables with ours beside them."""
    return markdown_table(PAPER_HEADS, [paper_cells(row) for row in comparison.paper])


def elsewhere_table(comparison: Comparison) -> str:
    """Return what others have published of these models, with ours beside it."""
    rows = []
    for figure, ours in comparison.elsewhere:
        theirs = f"{figure.valid or 'not given'} / {figure.test}"
        reached = "; ".join(f"{_perplexities(row)} ({row.precision})" for row in ours)
        rows.append([figure.model, figure.source, theirs, reached])
    return markdown_table(ELSEWHERE_HEADS, rows)


def paper_cells(row: Row) -> list[str]:
    """Return a row's cells under :data:`PAPER_HEADS`."""
    paper = f"{row.paper.valid} / {row.paper.test}" if row.paper else "not given"
    difference = row.difference
    percent = f"{' / '.join(difference.signed)} %" if difference else ""
    ours, *rest = _reached_cells(row)
    return [row.title, paper, ours, percent, *rest]


def _other_cells(row: Row) -> list[str]:
    data = row.group.data if row.group else ""
    words = f"{row.reached.scored['valid'].text.vocabulary_size:,}" if row.reached else ""
    return [row.title, data, words, ", ".join(row.runs), *_reached_cells(row)]


def _reached_cells(row: Row) -> list[str]:
    """Return the cells on what is reached, how often, in which precision, on what."""
    if row.reached is None:
        return [row.status, "", row.precision, ""]
    reached = row.reached
    scored = " / ".join(_of_split(reached.scored, split) for split in SCORED_SPLITS)
    return [_perplexities(row), reached.over, row.precision, scored]


def _perplexities(row: Row) -> str:
    """Return what is reached, valid and test."""
    found = row.reached.perplexity if row.reached else {}
    return " / ".join(_of_split(found, split) for split in SCORED_SPLITS)


def _of_split(values: Mapping[str, object], split: str) -> str:
    """Return what there is of a split; of data without a test text there is none."""
    return str(values[split]) if split in values else "none"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells may hold what a user has named."""
    lines = [heads, ["---"] * len(heads), *([_escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    """Return a text that may hold what a user has named as Markdown that shows it, in a line."""
    for character in "\\|<[]`*":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
