"""The hidden state of a stacked LSTM: a plain value, an argument and a result, never an attribute.

Shapes: L layers, B streams, H hidden units.
"""

from torch import Tensor

HiddenState = list[tuple[Tensor, Tensor]]
"""For each of the L layers, h and c, both (B, H)."""


def detach(hidden: HiddenState) -> HiddenState:
    """Cut the graph, so that backpropagation ends at the window's first step."""
    return [(h.detach(), c.detach()) for h, c in hidden]


def first_streams(hidden: HiddenState, streams: int) -> HiddenState:
    """Keep the state of the first streams."""
    return [(h[:streams], c[:streams]) for h, c in hidden]
