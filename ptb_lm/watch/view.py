"""A run's status as lines for a terminal of any width and height."""

import shlex
from collections.abc import Sequence
from itertools import pairwise
from math import inf, isfinite, isnan, log

from rich.console import Console
from rich.text import Text

from ptb_lm.model.perplexity import NO_FIGURE, figure_text
from ptb_lm.report.summary import last_epoch_lines
from ptb_lm.terminal import printable
from ptb_lm.training.elapsed import clock
from ptb_lm.watch.braille import Line, draw, row_of
from ptb_lm.watch.status import EpochDone, RunStatus

TRAIN, VALID, FAINT = "yellow", "cyan", "bright_black"
STATE_STYLES = {
    "training": "bold green",
    "scoring": "bold green",
    "stopped": "bold yellow",
    "finished": "bold blue",
}
WIDEST = 100
WIDE_TABLE = 50
"""From this width on there is room for words per second in the table of epochs."""
LONGEST_LABEL = 13
SHAPES = ((8, 6), (6, 6), (6, 4), (4, 3), (0, 6), (0, 3), (0, 1), (0, 0))
"""Rows of the curves, and epochs in the table: the first that a terminal is high enough for."""


def status_view(status: RunStatus, width: int, height: float = inf) -> Text:
    """Show a run's status.

    Args:
        status: of the run.
        width: of the terminal, in characters.
        height: likewise; what does not fit is left out from the details on.

    Returns:
        lines, none of them wider.
    """
    width = min(width, WIDEST)
    head = _head(status, width)
    lines = head
    for curve_rows, table_rows in SHAPES:
        lines = [*head, *_table(status, width, table_rows), *_curves(status, width, curve_rows)]
        if len(lines) <= height:
            break
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


def _head(status: RunStatus, width: int) -> list[Text]:
    """Return what is shown at any height: name, state, where it stands, the figures."""
    state: str = status.state
    if status.process is not None and status.process > 0:  # else on another machine
        state += f", process {status.process}"
    title = _flow([(printable(status.name), "bold"), (state, STATE_STYLES[status.state])], width)
    lines = [*title, _bar(status, width)]
    epoch, step = f"epoch {status.epoch} of {status.epochs}", f"step {status.step_in_epoch:,}"
    if status.steps_per_epoch is not None:
        step += f" of {status.steps_per_epoch:,}"
    under_way = "" if status.epochs_done >= status.epochs else " so far"
    figures = [
        (epoch, ""),
        (step, ""),
        (f"train {figure_text(status.train_perplexity)}{under_way}", TRAIN),
        (f"lr {_rate(status.learning_rate)}", ""),
        (f"{_whole(status.words_per_second)} words/s", ""),
        (f"elapsed {_clock(status.seconds)}", ""),
    ]
    if status.epochs_done < status.epochs:
        figures.append((f"left {_clock(status.seconds_left)}", ""))
    if status.state == "training" and not isnan(status.idle_seconds):
        figures.append((f"last line {clock(status.idle_seconds)} ago", FAINT))
    return [*lines, *_flow(figures, width), *_wrapped(_closing_lines(status), width)]


def _closing_lines(status: RunStatus) -> list[str]:
    """Return the scores of a run that is finished, or what takes up one that has stopped."""
    if status.state == "finished":
        return last_epoch_lines(status.epochs_done, status.config, status.scores)
    if status.state != "stopped":
        return []
    if not status.folder.resumable:
        return ["No training is at work here, and there is no checkpoint to go on from."]
    path = printable(shlex.quote(str(status.folder.path)))
    rest = "scores it" if status.epochs_done >= status.epochs else "goes on with it"
    return [f"`ptb-lm train --resume --run-dir {path}` {rest}."]


def _bar(status: RunStatus, width: int) -> Text:
    """Return how much of the whole run is done."""
    done = status.epochs_done / status.epochs
    if status.steps_per_epoch is not None:
        done = status.step / (status.steps_per_epoch * status.epochs)
    done = min(1.0, max(0.0, done))
    percent = f" {int(100 * done):3} %"
    cells = width - len(percent)
    filled = int(done * cells)
    return Text.assemble(("━" * filled, VALID), ("─" * (cells - filled), FAINT), percent)


def _table(status: RunStatus, width: int, rows: int) -> list[Text]:
    """Return the last epochs, with the best one above them if it is not among them."""
    shown, best = status.curve[-rows:] if rows else [], status.best
    if not shown:
        return []
    if best is not None and best.epoch < shown[0].epoch:
        shown = [best, *shown[1:]]
    has_speed = width >= WIDE_TABLE
    heads = f"{'epoch':>5}  {'train':>8}  {'valid':>8}  {'lr':>7}"
    lines = [Text(), Text(heads + ("   words/s" if has_speed else ""), FAINT)]
    for before, each in pairwise([None, *shown]):
        assert each is not None
        if before is not None and each.epoch > before.epoch + 1:
            lines.append(Text("    …", FAINT))
        lines.append(_epoch_line(each, has_speed=has_speed, is_best=each is best))
    return lines


def _epoch_line(each: EpochDone, *, has_speed: bool, is_best: bool) -> Text:
    line = Text.assemble(
        f"{each.epoch:>5}  ",
        (f"{figure_text(each.train_perplexity):>8}", TRAIN),
        "  ",
        (f"{figure_text(each.valid_perplexity):>8}", VALID),
        f"  {_rate(each.learning_rate):>7}",
        f"  {_whole(each.words_per_second):>8}" if has_speed else "",
    )
    return line.append(" best", "bold") if is_best else line


def _curves(status: RunStatus, width: int, rows: int) -> list[Text]:
    """Return train and valid perplexity by epoch, on a logarithmic scale; of one epoch nothing."""
    series = {
        "train": [each.train_perplexity for each in status.curve],
        "valid": [each.valid_perplexity for each in status.curve],
    }
    known = [value for values in series.values() for value in values if value > 0]
    if not rows or len(status.curve) < 2 or not known:
        return []
    low, high = log(min(known)), log(max(known))
    heights = {
        name: [(log(value) - low) / ((high - low) or 1) if value > 0 else None for value in values]
        for name, values in series.items()
    }
    scale = [_short(max(known)), *[""] * (rows - 2), _short(min(known))]
    margin = max(map(len, scale))
    across = width - margin - 2 - LONGEST_LABEL - 1
    if across < 5:
        return []
    curves = [Line(heights["train"], dashed=True), Line(heights["valid"])]
    labels = _labels(series, heights, rows)
    lines = [Text()]
    for row, cells in enumerate(draw(curves, across, rows)):
        line = Text(f"{scale[row]:>{margin}} ┤" if scale[row] else f"{'':{margin}} │", FAINT)
        for cell in cells:
            line.append(cell.character, (TRAIN, VALID)[cell.line] if cell.line is not None else "")
        lines.append(line.append(" ").append_text(labels.get(row, Text())))
    first, last = str(status.curve[0].epoch), f"epoch {status.curve[-1].epoch}"
    lines.append(Text(f"{'':{margin}}  {first}{last:>{max(0, across - len(first))}}", FAINT))
    return lines


def _labels(
    series: dict[str, list[float]], heights: dict[str, list[float | None]], rows: int
) -> dict[int, Text]:
    """Return which curve ends where, by the row of the drawing, each in a row of its own."""
    ends = {name: values[-1] if values[-1] is not None else 1.0 for name, values in heights.items()}
    place = {name: row_of(height, rows) for name, height in ends.items()}
    if place["train"] == place["valid"]:
        upper, lower = sorted(place, key=lambda name: -ends[name])
        if place[lower] < rows - 1:
            place[lower] += 1
        else:
            place[upper] -= 1
    styles = {"train": TRAIN, "valid": VALID}
    return {
        row: Text(f"{name} {_short(series[name][-1])}", styles[name]) for name, row in place.items()
    }


def _flow(items: Sequence[tuple[str, str]], width: int) -> list[Text]:
    """Put pieces of text with their styles side by side, on as many lines as they need."""
    lines = [Text()]
    for piece, style in items:
        if lines[-1] and lines[-1].cell_len + 3 + len(piece) > width:
            lines.append(Text())
        lines[-1].append("   " if lines[-1] else "").append(piece, style)
    return lines


def _wrapped(lines: Sequence[str], width: int) -> list[Text]:
    console = Console(width=width)
    parts = [part for line in lines for part in Text(line).wrap(console, width)]
    for part in parts:
        part.rstrip()
    return [Text(), *parts] if parts else []


def _short(value: float) -> str:
    """Write a perplexity in at most seven characters."""
    return figure_text(value, 1, width=7)


def _rate(value: float) -> str:
    """Write a learning rate in at most seven characters."""
    return f"{value:.1e}" if 0 < value < 1e-3 else figure_text(value, 4, width=7)


def _whole(value: float) -> str:
    return f"{value:,.0f}" if isfinite(value) else NO_FIGURE


def _clock(seconds: float) -> str:
    return clock(seconds) if isfinite(seconds) else NO_FIGURE
