"""The recurrent cells as the paper writes them (arXiv 1409.2329, section 3).

They read like its formulas, run one step at a time, and are the oracle for every fast path.

Shapes: B streams, I inputs, H hidden units. Weights have the layout of PyTorch's fused kernels:
``weight_ih`` (gates * H, I), ``weight_hh`` (gates * H, H), both biases (gates * H,).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear


class CellWeights(NamedTuple):
    """The two affine maps of a cell; the biases enter as a sum."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor


def rnn_cell(x: Tensor, h: Tensor, weights: CellWeights, activation: str) -> Tensor:
    """Take a step of the classic RNN: h' = f(A x + A' h + b), with f sigmoid or tanh.

    Args:
        x: the layer's input, (B, I).
        h: the state of the step before, (B, H).
        weights: one gate.
        activation: ``sigmoid`` or ``tanh``.

    Returns:
        h', (B, H).
    """
    f = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}[activation]
    return f(_affine(x, h, weights))


def lstm_cell(
    x: Tensor, state: tuple[Tensor, Tensor], weights: CellWeights
) -> tuple[Tensor, Tensor]:
    """Take a step of the LSTM.

    i, f, o = sigm and g = tanh of one affine map of (x, h); c' = f * c + i * g; h' = o * tanh(c').

    Args:
        x: the layer's input, (B, I).
        state: h and c of the step before, both (B, H).
        weights: four gates, stacked in the order i, f, g, o of PyTorch's kernels.

    Returns:
        h' and c', both (B, H).
    """
    h, c = state
    i, f, g, o = _affine(x, h, weights).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h, c


def _affine(x: Tensor, h: Tensor, weights: CellWeights) -> Tensor:
    from_input = linear(x, weights.weight_ih, weights.bias_ih)
    return from_input + linear(h, weights.weight_hh, weights.bias_hh)
