"""The README's figures, recomputed from the evidence under ``results/`` alone."""

from collections.abc import Mapping

from ptb_lm.errors import InputError
from ptb_lm.evaluation.scores import figure
from ptb_lm.report.evidence import Evidence
from ptb_lm.report.published import TABLE_1, published_for
from ptb_lm.report.summary import last_epoch_lines

BEGIN = "<!-- {name}: made by `make table` from results/ -->"
END = "<!-- end of {name} -->"


def results_table(runs: list[Evidence]) -> str:
    """Return Table 1 beside ours as Markdown; a model without a run is marked as not run."""
    lines = [
        "| model | parameters | paper: valid / test | this code: valid / test "
        "| precision, seed | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for name, published in TABLE_1.items():
        row = f"| {published.title} | {published.parameters:,} "
        row += f"| {published.valid} / {published.test} "
        ours = [run for run in runs if run.config.run.config == name and published_for(run.config)]
        for run in ours:
            reached = {split: figure(run.scores[split].log_probabilities) for split in run.scores}
            lines.append(
                f"{row}| **{reached['valid'].perplexity:.2f} / {reached['test'].perplexity:.2f}** "
                f"| [{run.config.run.precision}, {run.config.run.seed}]"
                f"(results/{run.folder.path.name}) "
                f"| {run.minutes:.0f} ({run.machine}) |"
            )
        if not ours:
            lines.append(f"{row}| not yet run | | |")
    counted = {
        (split, run.scores[split].text.layout, len(run.scores[split].log_probabilities))
        for run in runs
        for split in ("valid", "test")
        if published_for(run.config)
    }
    for split, layout, tokens in sorted(counted, reverse=True):
        lines.append(f"\n{split.capitalize()}: {layout}, {tokens:,} predicted tokens.")
    return "\n".join(lines)


def example_output(runs: list[Evidence]) -> str:
    """Return, as a Markdown block, what the first run of small ended by printing."""
    small = [run for run in runs if run.config.run.config == "small"]
    lines = ["not yet run"]
    if small:
        config = small[0].config
        lines = last_epoch_lines(config.training.epochs, config, small[0].scores)
    return "\n".join(["```text", *lines, "…", "```"])


def with_results(page: str, runs: list[Evidence]) -> str:
    """Return the README with all that comes from evidence written anew.

    Raises:
        InputError: the page lacks a mark.
    """
    return with_blocks(page, {"example": example_output(runs), "results": results_table(runs)})


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
