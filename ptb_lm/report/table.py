"""The README's figures, recomputed from the evidence under ``results/`` alone."""

import dataclasses
from collections.abc import Mapping, Sequence

from ptb_lm.errors import InputError
from ptb_lm.evaluation.scores import USUAL
from ptb_lm.report.comparison import DEVIATION, Row, paper_rows
from ptb_lm.report.evidence import Evidence
from ptb_lm.report.groups import grouped
from ptb_lm.report.markdown import PAPER_HEADS, markdown_table, paper_cells
from ptb_lm.report.summary import comparable_line, evaluation_summary, last_epoch_lines
from ptb_lm.training.run_folder import SCORED_SPLITS

BEGIN = "<!-- {name}: made by `make table` from results/ -->"
END = "<!-- end of {name} -->"


def results_table(runs: Sequence[Evidence]) -> str:
    """Return Table 1 beside ours as Markdown, in short; a model without a run is marked as not run.

    Of the averages there are those that the paper has and for which there are seeds enough; of
    several precisions the first, float32 where it is one of them.
    """
    firsts: dict[str, Row] = {}
    for row in paper_rows(grouped(runs)):
        if row.members == 1 or (row.reached and row.paper):
            firsts.setdefault(row.title, row)
    # The last column, on what was scored, is below the table: it is the same of all.
    lines = [markdown_table(PAPER_HEADS[:-1], [paper_cells(row)[:-1] for row in firsts.values()])]
    scored = {
        (split, str(row.reached.scored[split]))
        for row in firsts.values()
        if row.reached
        for split in SCORED_SPLITS
    }
    for split, how in sorted(scored, reverse=True):
        lines.append(f"\n{split.capitalize()}: {how} predicted tokens.")
    if any(row.reached and len(row.reached.groups) > 1 for row in firsts.values()):
        lines.append(f"\n{DEVIATION}")
    return "\n".join(lines)


def example_output(runs: Sequence[Evidence]) -> str:
    """Return, as a Markdown block, what the first run of small ended by printing."""
    small = [run for run in runs if run.config.run.config == "small"]
    lines = ["not yet run"]
    if small:
        config = small[0].config
        scores = small[0].scores
        lines = last_epoch_lines(config.training.epochs, config, scores)
        words = scores["test"].text.vocabulary_size
        lines.append(comparable_line(config.run.data, words, {}))
    return "\n".join(["```text", *lines, "…", "```"])


def demo_output(runs: Sequence[Evidence]) -> str:
    """Return, as a Markdown block, what ``make demo`` ends by printing.

    Args:
        runs: a run of it, if there is evidence of one.
    """
    lines = ["not yet run"]
    if runs:
        member = dataclasses.replace(runs[0].scores["test"], name="runs/demo/last.pt")
        reached = evaluation_summary([member], [runs[0].config], USUAL)
        lines = ["…", reached, "run folder: runs/demo"]
    return "\n".join(["```text", *lines, "```"])


def with_results(page: str, runs: Sequence[Evidence], demo: Sequence[Evidence]) -> str:
    """Return the README with all that comes from evidence written anew.

    Raises:
        InputError: the page lacks a mark.
    """
    blocks = {
        "demo": demo_output(demo),
        "example": example_output(runs),
        "results": results_table(runs),
    }
    return with_blocks(page, blocks)


def with_blocks(page: str, blocks: Mapping[str, str]) -> str:
    """Return a page with blocks of text, by name, written anew between their marks.

    Raises:
        InputError: the page lacks a mark.
    """
    for name, text in blocks.items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, begins, rest = page.partition(begin)
        _, ends, after = rest.partition(end)
        if not (begins and ends):
            raise InputError(f"the page lacks the marks {begin!r} and {end!r}")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page
