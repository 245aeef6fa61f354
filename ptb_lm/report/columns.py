"""Text in columns, for a terminal."""

from collections.abc import Sequence

from ptb_lm.terminal import printable

Line = tuple[str, Sequence[str]]
"""A title and its figures; a title without any may be as long as it likes."""


def in_columns(lines: Sequence[Line], *, on_terminal: bool) -> list[str]:
    """Put cells under one another: titles to the left, figures to the right of their columns.

    Args:
        lines: titles and figures.
        on_terminal: whether to make them harmless for a terminal, which widens some of them.
    """
    if on_terminal:
        lines = [(printable(title), [*map(printable, cells)]) for title, cells in lines]
    with_figures = [(title, cells) for title, cells in lines if cells]
    titles = max((len(title) for title, _ in with_figures), default=0)
    columns = max((len(cells) for _, cells in with_figures), default=0)
    widths = [
        max(len(cells[n]) for _, cells in with_figures if len(cells) > n) for n in range(columns)
    ]
    return [
        "  ".join(
            [f"{title:{titles}}", *(f"{cell:>{widths[n]}}" for n, cell in enumerate(cells))]
        ).rstrip()
        for title, cells in lines
    ]
