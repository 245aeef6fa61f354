"""``ptb-lm report``."""

from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli.app import AsJson, app, on_terminal, require_output, say, show, summarize
from ptb_lm.strict_json import to_json


@app.command("report")
def report_command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN", help="Run folders; default: those in ./results."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write Markdown, JSON, HTML and learning curves there."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show runs beside the paper's table: seeds, averages, learning curves; no model is loaded.

    Without --out or --json it prints Markdown, on a terminal a table of 80 columns.
    """
    if out is None:
        require_output()
    from ptb_lm.report.as_json import report_json
    from ptb_lm.report.comparison import beside_papers
    from ptb_lm.report.evidence import read_runs
    from ptb_lm.report.markdown import report_markdown
    from ptb_lm.report.output import write_report
    from ptb_lm.report.text import report_text

    comparison = beside_papers(read_runs(runs or [], Path("results")))
    files = [] if out is None else write_report(comparison, out)
    written = f"{out}: {', '.join(file.name for file in files)}"
    if as_json:
        summarize(to_json(report_json(comparison)))
        if files:
            say(written)
    elif files:
        summarize(written)
    else:
        show(report_text(comparison) if on_terminal() else report_markdown(comparison, {}))
