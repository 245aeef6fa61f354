"""The figures of docs/: learning curves and the dropout study from the evidence; the idea."""

from pathlib import Path
from typing import TYPE_CHECKING

from idea_figure import draw_idea
from measured import runs_on_ptb
from reproduction_page import TITLES, study_runs

from ptb_lm.durable import durable_file
from ptb_lm.report.comparison import beside_papers
from ptb_lm.report.curves import Curve, draw_curves, drawn, mean_curve, plain_logarithmic
from ptb_lm.report.evidence import Evidence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of Okabe and Ito's colours, which are told apart with any kind of colour vision.
COLOURS = dict(zip(TITLES, ("#767676", "#0072b2", "#d55e00", "#009e73"), strict=True))
LINES = dict(zip(TITLES, (":", "-", "--", "-."), strict=True))


def write_figures(results: Path, docs: Path) -> None:
    """Draw what there is evidence of, and the idea, each as an SVG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figures = {
        f"curves-{group.name}.svg": draw_curves(group)["svg"]
        for group in beside_papers(runs_on_ptb(results)).groups
        if group.published
    }
    figures["idea.svg"] = drawn(draw_idea)["svg"]
    runs = study_runs(results)
    if runs:
        figures["dropout-study.svg"] = drawn(lambda figure: draw_study(figure, runs))["svg"]
    for name, content in figures.items():
        with durable_file(docs / name) as file:
            file.write(content)


def draw_study(figure: "Figure", runs: list[Evidence]) -> None:
    """Draw perplexity by epoch for each way of dropout, seeds thin, means thick."""
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, kind, title in ((left, "train", "training"), (right, "valid", "validation")):
        for way, label in TITLES.items():
            curves = [Curve.of(run) for run in runs if run.config.model.dropout_on == way]
            if not curves:
                continue
            for curve in curves:
                axes.plot(curve.epochs, getattr(curve, kind), color=COLOURS[way], lw=0.8, alpha=0.5)
            means = mean_curve(curves, kind)
            axes.plot(*means, color=COLOURS[way], ls=LINES[way], lw=2, label=label)
        axes.set_title(title, loc="left")
        axes.set_xlabel("epoch")
        plain_logarithmic(axes)
    left.set_ylabel("perplexity")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False)
