"""A recurrent layer over a window: by PyTorch's fused kernel, or step by step under masks.

Shapes: T steps, B streams, I inputs, H hidden units, G gates.
"""

from typing import Any

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
    state_map = _StateMap(weights, from_input)
    outputs = []
    for step, affine in enumerate(from_input):  # (B, G * H)
        h = state[0]
        if masks is not None:
            h = h * masks.select(-3, step if masks.shape[-3] > 1 else 0)  # (B, H) or (G, B, H)
        after = cell.step(affine, state_map.step(h), state)
        state = tuple(part.to(old) for part, old in zip(after, state, strict=True))
        outputs.append(state[0])
    return torch.stack(outputs), state


def _affine(x: Tensor, weight: Tensor, bias: Tensor, *, per_gate: bool) -> Tensor:
    """Return the affine map of x (…, I), or of what each gate has of its own (G, …, I)."""
    if not per_gate:
        return linear(x, weight, bias)
    gates = zip(x, weight.chunk(len(x)), bias.chunk(len(x)), strict=True)
    return torch.cat([linear(*gate) for gate in gates], dim=-1)  # (…, G * H)


class _StateMap:
    """The affine map A' h + b' of one step after the other.

    Autograd would add up the gradient of A' from T products of B columns, each as large as A'
    itself. Here it is one product of T * B columns, once the gradient of every step is known.
    """

    def __init__(self, weights: CellWeights, from_input: Tensor) -> None:
        """Begin a window: from_input, (T, B, G * H), is what its products are like."""
        steps, streams, _ = from_input.shape
        self._weight = weights.weight_hh.detach().to(from_input.dtype)  # in bfloat16, cast once
        self._taken: list[Tensor] = []
        biases: Tensor = _BiasOfSteps.apply(  # type: ignore[no-untyped-call]
            weights.weight_hh, weights.bias_hh, (steps, streams), from_input.dtype, self._taken
        )
        self._biases = biases.unbind()

    def step(self, h: Tensor) -> Tensor:
        """Return the map (B, G * H) of h (B, H), or of what each gate has of its own (G, B, H)."""
        bias = self._biases[len(self._taken)]
        self._taken.append(h.detach())
        if h.dim() == 2:
            return torch.addmm(bias, h, self._weight.t())
        gates = self._weight.view(len(h), -1, h.shape[-1])  # (G, H, H)
        return (h @ gates.mT).transpose(0, 1).flatten(1) + bias


class _BiasOfSteps(torch.autograd.Function):
    """b' at every step; its gradient, which is that of the whole map, gives that of A' as well."""

    @staticmethod
    def forward(
        context: Any,
        weight: Tensor,
        bias: Tensor,
        sizes: tuple[int, int],
        dtype: torch.dtype,
        taken: list[Tensor],
    ) -> Tensor:
        """Repeat the bias, (T, B, G * H); taken is filled by then with the h of each step."""
        context.taken, context.dtype = taken, weight.dtype
        return bias.to(dtype).expand(*sizes, -1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Give the gradients of A', (G * H, H), and of b', (G * H,)."""
        (gradient,) = gradients
        of_bias = gradient.sum((0, 1))
        h = torch.stack(context.taken).to(gradient.dtype)  # (T, B, H) or (T, G, B, H)
        if h.dim() == 3:
            of_weight = gradient.flatten(0, 1).T @ h.flatten(0, 1)
        else:
            gates = torch.stack(gradient.chunk(h.shape[1], dim=-1)).flatten(1, 2)  # (G, T * B, H)
            of_weight = (gates.mT @ h.transpose(0, 1).flatten(1, 2)).flatten(0, 1)
        return of_weight.to(context.dtype), of_bias.to(context.dtype), None, None, None
