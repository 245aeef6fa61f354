"""A run's status on a terminal, again and again, until the run is finished or nobody looks."""

import signal
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.stop import StopFlag, Stopped
from ptb_lm.watch.status import RunStatus, StatusReader
from ptb_lm.watch.view import FAINT, status_view


def can_show_live(console: Console) -> bool:
    """Whether there is a terminal that a view can be drawn on anew."""
    return console.is_terminal and not console.is_dumb_terminal


def show_live(
    reader: StatusReader, console: Console, interval: float, stop: StopFlag
) -> RunStatus | None:
    """Show a run's status on a screen of its own, which is gone afterwards.

    Args:
        reader: of the run.
        console: a terminal.
        interval: seconds between two looks.
        stop: Ctrl-C is how one leaves the view.

    Returns:
        the status of the run when it was finished; None if the view was left before.

    Raises:
        InputError: a file of the run is damaged.
        PtbLmError: the folder was removed meanwhile.
        Stopped: another signal than Ctrl-C came.
    """
    status = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            with stop.while_waiting():  # nothing is left behind wherever this is broken off
                while True:
                    status = _look(reader) or status
                    if status is not None and status.state == "finished":
                        return status
                    live.update(_screen(status, console), refresh=True)
                    time.sleep(interval)
        except Stopped:
            if stop.signal_number != signal.SIGINT:
                raise
            return None


def _look(reader: StatusReader) -> RunStatus | None:
    """Read the status; None while there is none, as where a run is just being begun anew."""
    folder = reader.folder
    try:
        return reader.read(time.time())
    except InputError:
        if not folder.path.is_dir():
            raise PtbLmError(f"{folder.path}: removed while it was watched") from None
        if not folder.config.is_file():
            return None
        raise


def _screen(status: RunStatus | None, console: Console) -> Text:
    if status is None:
        return Text("no run in the folder at the moment", FAINT)
    return status_view(status, console.width, console.height)
