"""``ptb-lm watch``."""

from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli.app import AsJson, app, flag, require_output, show
from ptb_lm.stop import StopFlag
from ptb_lm.strict_json import to_json
from ptb_lm.terminal import usable_width


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    once: Annotated[bool, flag("--once", help="Print the view once and exit.")] = False,
    interval: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, max=3600, help="Seconds between two updates."),
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show how far a training has come, live on a terminal, undisturbed; Ctrl-C leaves."""
    require_output()
    import time

    from rich.console import Console

    from ptb_lm.watch.live import can_show_live, show_live
    from ptb_lm.watch.status import StatusReader, status_json
    from ptb_lm.watch.view import status_view

    reader, console = StatusReader(run), Console()
    if as_json:
        show(to_json(status_json(reader.read(time.time()))))
        return
    if once or not can_show_live(console):
        status = reader.read(time.time())
    else:
        with StopFlag() as stop:
            left_at = show_live(reader, console, interval, stop)
        if left_at is None:
            return
        status = left_at
    view = status_view(status, usable_width(console.width))
    console.print(view, no_wrap=True, crop=False, overflow="ignore")
