"""The figure of docs/IDEA.md: the unrolled network, and how often a path of it passes dropout.

After figure 2 and 3 of arXiv 1409.2329: dashed arrows pass dropout, solid ones do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ptb_lm.report.curves import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYERS = 2
FIRST_STEP, LAST_STEP = -2, 2
"""Of the window, and of the path: from the word at t-2 to the prediction at t+2."""
CLIMBS_AT = 0
"""The step at which the path goes from layer 1 to layer 2."""

PATH_COLOUR, PALE = "#d55e00", "#8c959f"
WIDTH, HEIGHT = 11.0, 5.2  # inches
NODE = 0.27  # half the side of a node's box, where steps and layers are 1 apart

Node = tuple[int, int]
"""A step, and a height: 0 the word, 1 to L the layers, L+1 the softmax."""


@dataclass(frozen=True)
class Arrow:
    """A connection of the unrolled network."""

    tail: Node
    head: Node

    @property
    def recurrent(self) -> bool:
        """Whether it goes from a step to the next rather than up."""
        return self.tail[1] == self.head[1]


def arrows() -> Iterator[Arrow]:
    """Every connection of the window."""
    for step in range(FIRST_STEP, LAST_STEP + 1):
        for height in range(LAYERS + 1):
            yield Arrow((step, height), (step, height + 1))
        if step < LAST_STEP:
            for layer in range(1, LAYERS + 1):
                yield Arrow((step, layer), (step + 1, layer))


def path() -> list[Arrow]:
    """The path shown: up into layer 1, along it, up into layer 2, along it, up to the softmax."""
    along_first = [(step, 1) for step in range(FIRST_STEP, CLIMBS_AT + 1)]
    along_second = [(step, 2) for step in range(CLIMBS_AT, LAST_STEP + 1)]
    nodes = [(FIRST_STEP, 0), *along_first, *along_second, (LAST_STEP, LAYERS + 1)]
    return [Arrow(tail, head) for tail, head in pairwise(nodes)]


def crossings(dropped_on_recurrent: bool) -> list[Arrow]:
    """The arrows of the path that pass dropout, in order."""
    return [arrow for arrow in path() if dropped_on_recurrent or not arrow.recurrent]


def draw_idea(figure: "Figure") -> None:
    """Draw the paper's dropout, and beside it the contrast."""
    figure.set_size_inches(WIDTH, HEIGHT)
    # By hand: a layout by the extent of texts would depend on the fonts of a machine.
    figure.set_layout_engine("none")
    layers, steps = f"L + 1 = {LAYERS + 1}", LAST_STEP - FIRST_STEP
    panels = {
        False: ("dropout on the non-recurrent connections", layers),
        True: (
            "on the recurrent ones too, a fresh mask each step",
            f"L + 1 + T = {LAYERS + 1} + {steps} = {LAYERS + 1 + steps}",
        ),
    }
    for dropped_on_recurrent, (title, count) in panels.items():
        axes = figure.add_axes((0.5 * dropped_on_recurrent, 0.0, 0.5, 1.0))
        axes.set_axis_off()
        axes.set_xlim(FIRST_STEP - 1.25, LAST_STEP + 0.55)
        axes.set_ylim(-1.35, LAYERS + 2.35)
        _draw_network(axes, dropped_on_recurrent)
        _draw_names(axes)
        for y, text, colour in ((2.05, title, INK), (1.66, f"{count} crossings", PATH_COLOUR)):
            axes.text(0, LAYERS + y, text, ha="center", va="center", size=12.5, color=colour)
    _draw_legend(figure)


def _draw_network(axes: "Axes", dropped_on_recurrent: bool) -> None:
    on_path = set(path())
    for arrow in arrows():
        dropped = dropped_on_recurrent or not arrow.recurrent
        _draw_arrow(axes, arrow, dropped=dropped, highlighted=arrow in on_path)
    through = {node for arrow in on_path for node in (arrow.tail, arrow.head)}
    for step in range(FIRST_STEP, LAST_STEP + 1):
        for height in range(LAYERS + 2):
            _draw_node(axes, (step, height), highlighted=(step, height) in through)
    for number, arrow in enumerate(crossings(dropped_on_recurrent), start=1):
        _draw_crossing(axes, arrow, number)


def _draw_arrow(axes: "Axes", arrow: Arrow, *, dropped: bool, highlighted: bool) -> None:
    (x, y), (to_x, to_y) = arrow.tail, arrow.head
    along, up = to_x - x, to_y - y
    axes.annotate(
        "",
        xy=(to_x - NODE * along, to_y - NODE * up),
        xytext=(x + NODE * along, y + NODE * up),
        arrowprops={
            "arrowstyle": "-|>,head_length=0.35,head_width=0.16",
            "color": PATH_COLOUR if highlighted else PALE,
            "linestyle": (0, (3, 2)) if dropped else "-",
            "linewidth": 2.4 if highlighted else 1.3,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )


def _draw_node(axes: "Axes", node: Node, *, highlighted: bool) -> None:
    from matplotlib.patches import FancyBboxPatch

    step, height = node
    is_layer = 1 <= height <= LAYERS
    box = FancyBboxPatch(
        (step - NODE, height - NODE),
        2 * NODE,
        2 * NODE,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor="#fff1e5" if highlighted else "#f6f8fa" if is_layer else "#ffffff",
        edgecolor=PATH_COLOUR if highlighted else PALE,
        linewidth=1.6 if highlighted else 1.0,
        zorder=3,
    )
    axes.add_patch(box)
    name = "h" if is_layer else "y" if height else "x"
    axes.text(step, height, name, ha="center", va="center_baseline", size=11, zorder=4)


def _draw_names(axes: "Axes") -> None:
    """Name the rows and the steps."""
    rows = ["words", *(f"layer {layer}" for layer in range(1, LAYERS + 1)), "softmax"]
    for height, row in enumerate(rows):
        axes.text(FIRST_STEP - 0.42, height, row, ha="right", va="center_baseline", size=10.5)
    for step in range(FIRST_STEP, LAST_STEP + 1):
        when = f"t{step:+}".replace("-", "\N{MINUS SIGN}") if step else "t"
        axes.text(step, -0.52, when, ha="center", va="center_baseline", size=10.5)


def _draw_crossing(axes: "Axes", arrow: Arrow, number: int) -> None:
    """Number a crossing, beside the middle of its arrow."""
    x, y = ((tail + head) / 2 for tail, head in zip(arrow.tail, arrow.head, strict=True))
    x, y = (x, y + 0.24) if arrow.recurrent else (x - 0.24, y)
    axes.plot(
        *([x], [y]), marker="o", ms=15, mfc="#ffffff", mec=PATH_COLOUR, mew=1.5, ls="none", zorder=5
    )
    axes.text(
        x, y, str(number), ha="center", va="center_baseline", size=10, color=PATH_COLOUR, zorder=6
    )


def _draw_legend(figure: "Figure") -> None:
    axes = figure.add_axes((0.0, 0.0, 1.0, 0.1))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    for x, label, style in ((0.3, "passes dropout", (0, (3, 2))), (0.53, "is never dropped", "-")):
        axes.plot([x, x + 0.05], [0.45, 0.45], color=INK, ls=style, lw=1.6)
        axes.text(x + 0.06, 0.45, label, ha="left", va="center_baseline", size=10.5)
