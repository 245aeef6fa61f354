"""The hidden state of stacked layers: a plain value, an argument and a result, never an attribute.

Shapes: L layers, B streams, H hidden units.
"""

from ptb_lm.model.layers import State

HiddenState = list[State]
"""The states of the L layers, each with the H of its layer."""


def detach(hidden: HiddenState) -> HiddenState:
    """Cut the graph, so that backpropagation ends at the window's first step."""
    return [tuple(part.detach() for part in state) for state in hidden]


def first_streams(hidden: HiddenState, streams: int) -> HiddenState:
    """Keep the state of the first streams."""
    return [tuple(part[:streams] for part in state) for state in hidden]
