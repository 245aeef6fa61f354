"""``ptb-lm compare``."""

from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli.app import AsJson, app, on_terminal, require_output, show
from ptb_lm.strict_json import to_json


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Run folders, at least two; the first is the baseline."),
    ],
    as_json: AsJson = False,
) -> None:
    """Say what differs between runs: config, environment, results; no model is loaded."""
    require_output()
    from ptb_lm.compare.side_by_side import read_for_comparison, side_by_side, side_by_side_json
    from ptb_lm.compare.text import side_by_side_text

    compared = side_by_side(read_for_comparison(runs))
    show(
        to_json(side_by_side_json(compared))
        if as_json
        else side_by_side_text(compared, on_terminal=on_terminal())
    )
