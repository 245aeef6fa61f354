"""A recurrent layer over a window: by PyTorch's fused kernel, or step by step under masks.

Shapes: T steps, B streams, I inputs, H hidden units, G gates.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ptb_lm.model.cells import Cell, CellWeights, State


def layer_weights(layer: nn.RNNBase) -> CellWeights:
    """Return a layer's weights in the form that the cells take."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return CellWeights(*(layer.get_parameter(name) for name in names))


def run_fused(cell: Cell, layer: nn.RNNBase, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a layer without masks within it.

    Args:
        cell: one that PyTorch has a kernel for.
        layer: with the weights.
        x: (T, B, I).
        state: before the first step.

    Returns:
        h of every step, (T, B, H), and the state after the last.
    """
    before = tuple(part.unsqueeze(0) for part in state)
    outputs, after = layer(x, before if cell.states > 1 else before[0])
    parts = after if cell.states > 1 else (after,)
    return outputs, tuple(part.squeeze(0).to(old) for part, old in zip(parts, state, strict=True))


def run_stepwise(
    cell: Cell, weights: CellWeights, x: Tensor, state: State, masks: Tensor | None
) -> tuple[Tensor, State]:
    """Run a layer step by step, h under a mask on its way into the next step's affine map.

    Args:
        cell: of any kind.
        weights: of its gates.
        x: (T, B, I), or what each gate has of its own, (G, T, B, I).
        state: before the first step.
        masks: what h is multiplied by, (T, B, H), or (1, B, H) at every step; (G, 1, B, H) with
            masks of its own for each gate; None for none.

    Returns:
        h of every step, (T, B, H), and the state after the last. Neither is masked.
    """
    from_input = _affine(x, weights.weight_ih, weights.bias_ih, per_gate=x.dim() == 4)
    outputs = []
    for step, affine in enumerate(from_input):  # (B, G * H)
        h = state[0]
        if masks is not None:
            h = h * masks.select(-3, step if masks.shape[-3] > 1 else 0)  # (B, H) or (G, B, H)
        from_state = _affine(h, weights.weight_hh, weights.bias_hh, per_gate=h.dim() == 3)
        after = cell.step(affine, from_state, state)
        state = tuple(part.to(old) for part, old in zip(after, state, strict=True))
        outputs.append(state[0])
    return torch.stack(outputs), state


def _affine(x: Tensor, weight: Tensor, bias: Tensor, *, per_gate: bool) -> Tensor:
    """Return the affine map of x (…, I), or of what each gate has of its own (G, …, I)."""
    if not per_gate:
        return linear(x, weight, bias)
    gates = zip(x, weight.chunk(len(x)), bias.chunk(len(x)), strict=True)
    return torch.cat([linear(*gate) for gate in gates], dim=-1)  # (…, G * H)
