"""Learning curves: perplexity and learning rate by epoch, a figure a group.

matplotlib, an extra, is imported where a figure is drawn and nowhere else.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ptb_lm.report.evidence import Evidence
from ptb_lm.report.groups import Group
from ptb_lm.training.metrics import number_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID, PAPER_WHITE = "#24292f", "#d0d7de", "#ffffff"
# Of Okabe and Ito's colours, which are told apart with any kind of colour vision.
TRAIN_COLOUR, VALID_COLOUR, PUBLISHED_COLOUR = "#d55e00", "#0072b2", "#767676"

INCHES = (8.0, 6.4)
DOTS_PER_INCH = 150
"""1200 pixels wide."""

MOST_DOTS = 20
"""Of more epochs they would hide the seeds."""

STYLE: Any = {
    "svg.hashsalt": "ptb-lm",  # or names within the file are drawn by chance
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a name with a dollar in it is no formula
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": PAPER_WHITE,
    "figure.facecolor": PAPER_WHITE,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.which": "both",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

UNDATED = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "png": {"Software": None},
}
"""What matplotlib would else write into a file: the same curves are the same bytes."""


@dataclass(frozen=True)
class Curve:
    """What a run's metrics say of its epochs, each a list of as many values.

    A figure that is not a number, as of a diverged training, is NaN.
    """

    epochs: list[int]
    train: list[float]
    valid: list[float]
    learning_rate: list[float]

    @classmethod
    def of(cls, run: Evidence) -> "Curve":
        """Read a run's curve; empty before its first epoch has ended."""
        lines = run.epochs
        columns = [
            [_plottable(number_in(line, key)) for line in lines]
            for key in ("train/perplexity", "valid/perplexity", "lr")
        ]
        return cls([line["epoch"] for line in lines], *columns)


def _plottable(value: float) -> float:
    """Return a figure that a logarithmic axis can show, else NaN."""
    return value if value > 0 else math.nan


def has_curve(group: Group) -> bool:
    """Whether an epoch of any of its runs has ended."""
    return any(run.epochs for run in group.runs)


def draw_curves(group: Group) -> dict[str, bytes]:
    """Draw a group's learning curves, its seeds thin and their mean thick.

    Args:
        group: one for which :func:`has_curve` is true.

    Returns:
        the file's bytes by format, ``png`` and ``svg``; the same each time of the same curves.

    Raises:
        ImportError: matplotlib is not installed.
    """
    return drawn(partial(_draw, group=group))


def drawn(draw: "Callable[[Figure], None]") -> dict[str, bytes]:
    """Draw a figure in the style of all figures.

    Args:
        draw: what fills an empty figure.

    Returns:
        the file's bytes by format, ``png`` and ``svg``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user has set
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=INCHES, layout="constrained")
        draw(figure)
        files = {}
        for form, metadata in UNDATED.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=DOTS_PER_INCH, metadata=metadata)
            files[form] = buffer.getvalue()
    return files


def _draw(figure: "Figure", group: Group) -> None:
    """Draw both panels."""
    from matplotlib.ticker import MaxNLocator

    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    curves = [Curve.of(run) for run in group.runs if run.epochs]
    _draw_perplexity(above, curves, group)
    above.set_title(curves_title(group), loc="left")
    above.set_ylabel("perplexity")
    for curve in curves:
        below.plot(curve.epochs, curve.learning_rate, color=INK, lw=1.2, marker="o", ms=3)
    below.set_ylabel("learning rate")
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.align_ylabels()
    plain_logarithmic(above)
    plain_logarithmic(below, subdivisions=(1,))


def curves_title(group: Group) -> str:
    """Say whose curves they are."""
    seeds = [run.config.run.seed for run in group.runs if run.epochs]
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds"
    unfinished = sum(not run.finished for run in group.runs if run.epochs)
    if unfinished:
        which += (
            ", unfinished" if unfinished == len(seeds) else f", {unfinished} of them unfinished"
        )
    data = "Penn Treebank" if group.data == "ptb" else group.data
    title = f"{group.title}: {data}, {group.config.run.precision}, {which}"
    return "".join(
        letter if letter.isprintable() else " " for letter in title
    )  # XML takes no others


def _draw_perplexity(axes: "Axes", curves: Sequence[Curve], group: Group) -> None:
    """Draw each seed, and in the foreground the finished ones' mean, or all seeds' if none is."""
    foreground = [Curve.of(run) for run in group.finished if run.epochs] or list(curves)
    count = len(foreground)
    mean = f", mean of {count} seeds" if count > 1 else ""
    dropout = ", with dropout" if group.config.model.has_dropout else ""
    kinds = (
        ("train", f"training{dropout}{mean}", TRAIN_COLOUR, "--"),
        ("valid", f"validation{mean}", VALID_COLOUR, "-"),
    )
    for kind, label, colour, line in kinds:
        if len(curves) > 1:
            for curve in curves:
                axes.plot(curve.epochs, getattr(curve, kind), color=colour, lw=0.8, alpha=0.6)
        epochs, means = mean_curve(foreground, kind)
        dots = "o" if len(epochs) <= MOST_DOTS else ""
        axes.plot(epochs, means, color=colour, ls=line, lw=1.8, marker=dots, ms=3.5, label=label)
    if group.published is not None:
        axes.axhline(
            group.published.valid,
            color=PUBLISHED_COLOUR,
            ls=":",
            lw=1.6,
            label=f"validation in the paper, last epoch: {group.published.valid}",
        )
    axes.legend(frameon=False, loc="upper right")


def mean_curve(curves: Sequence[Curve], kind: str) -> tuple[list[int], list[float]]:
    """Return the epochs that all curves have, and the mean of one of their columns at each."""
    columns = [dict(zip(curve.epochs, getattr(curve, kind), strict=True)) for curve in curves]
    epochs = [epoch for epoch in curves[0].epochs if all(epoch in column for column in columns)]
    return epochs, [sum(column[epoch] for column in columns) / len(columns) for epoch in epochs]


def plain_logarithmic(axes: "Axes", subdivisions: Sequence[float] = (1, 1.5, 2, 3, 5, 7)) -> None:
    """Make the vertical axis logarithmic, with numbers written out, if there is a number on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if not any((np.asarray(line.get_ydata(), float) > 0).any() for line in axes.lines):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=list(subdivisions)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
