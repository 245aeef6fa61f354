"""The recurrent cells as formulas (arXiv 1409.2329, section 3; the GRU: arXiv 1406.1078).

Each takes one step. They read like the formulas, and are the oracle for every fast path and the
way to masks that no fused kernel takes.

Shapes: B streams, I inputs, H hidden units, G gates. Weights have the layout of PyTorch's fused
kernels: ``weight_ih`` (G * H, I), ``weight_hh`` (G * H, H), both biases (G * H,).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

State = tuple[Tensor, ...]
"""What a layer carries from step to step, each (B, H): h first, and with the LSTM c."""


class CellWeights(NamedTuple):
    """The two affine maps of a cell."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor


Step = Callable[[Tensor, Tensor, State], State]
"""From A x + b and A' h + b', both (B, G * H), and the state to the state after."""


def lstm_step(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """Take a step of the LSTM.

    i, f, o = sigm and g = tanh of one affine map of (x, h); c' = f * c + i * g; h' = o * tanh(c').
    The four gates are stacked in the order i, f, g, o of PyTorch's kernels.
    """
    _, c = state
    i, f, g, o = (from_input + from_state).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_step(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """Take a step of the GRU, as PyTorch has it.

    r, z = sigm of affine maps of (x, h); n = tanh(A x + b + r * (A' h + b')); h' = (1 - z) n + z h.
    The three are stacked in the order r, z, n of PyTorch's kernels.
    """
    (h,) = state
    r_in, z_in, n_in = from_input.chunk(3, dim=-1)
    r_state, z_state, n_state = from_state.chunk(3, dim=-1)
    r, z = torch.sigmoid(r_in + r_state), torch.sigmoid(z_in + z_state)
    n = torch.tanh(n_in + r * n_state)
    return ((1 - z) * n + z * h,)


def sigmoid_step(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """Take a step of the classic RNN with f = sigm: h' = f(A x + A' h + b)."""
    return (torch.sigmoid(from_input + from_state),)


def tanh_step(from_input: Tensor, from_state: Tensor, state: State) -> State:
    """Take a step of the classic RNN with f = tanh: h' = f(A x + A' h + b)."""
    return (torch.tanh(from_input + from_state),)


class Cell(NamedTuple):
    """A kind of recurrent layer.

    Attributes:
        gates: G, how many affine maps of H outputs it has.
        states: how many tensors (B, H) it carries.
        step: its formula.
        layer: PyTorch's module, with the weights of one layer.
        fused: whether that module computes the same; PyTorch has no kernel for sigm in an RNN.
    """

    gates: int
    states: int
    step: Step
    layer: Callable[[int, int], nn.RNNBase]
    fused: bool = True


CELLS = {
    "lstm": Cell(4, 2, lstm_step, nn.LSTM),
    "gru": Cell(3, 1, gru_step, nn.GRU),
    "rnn-tanh": Cell(1, 1, tanh_step, nn.RNN),
    "rnn-sigmoid": Cell(1, 1, sigmoid_step, nn.RNN, fused=False),
}
"""By their names in ``model.cell``."""


def cell_step(cell: Cell, x: Tensor, state: State, weights: CellWeights) -> State:
    """Take a step of a cell.

    Args:
        cell: of :data:`CELLS`.
        x: the layer's input, (B, I).
        state: of the step before.
        weights: of the cell's gates.

    Returns:
        the state after the step, h' first.
    """
    from_input = linear(x, weights.weight_ih, weights.bias_ih)
    from_state = linear(state[0], weights.weight_hh, weights.bias_hh)
    return cell.step(from_input, from_state, state)
