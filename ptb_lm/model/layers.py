"""Recurrent layers: the formula of one step, and the fastest way to run it over a window.

A layer knows its sizes, its zero state and its formula. :meth:`RecurrentLayer.step` reads like the
formula and is the oracle for every fast path; :meth:`RecurrentLayer.forward` runs a window, by
default step by step, and by PyTorch's fused kernel where a layer has one.

Sources: arXiv 1409.2329, section 3 (LSTM, classic RNN); arXiv 1406.1078 (GRU).

Shapes: T steps, B streams, I inputs, H units, G gates.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ptb_lm.model.backends import has_bfloat16_layers_on_cuda, has_bfloat16_lstm
from ptb_lm.model.dropout import Dropout

State = tuple[Tensor, ...]
"""The state of a layer, each part (B, H): h first, and with the LSTM c."""


class RecurrentLayer(nn.Module):
    """The interface of all layers.

    Attributes:
        input_size: I.
        hidden_size: H.
        states: how many tensors the layer carries from step to step.
        drop: dropout of h on its way into the next step; its rate is 0 in the paper.
        precision: ``bf16``: products in bfloat16; otherwise all in float32.
    """

    input_size: int
    hidden_size: int
    states: ClassVar[int] = 1
    drop: Dropout
    precision: str

    def zero_state(self, streams: int) -> State:
        """Return the state at the beginning of a text: all zero, (B, H) each."""
        weight = next(self.parameters())
        return tuple(weight.new_zeros(streams, self.hidden_size) for _ in range(self.states))

    def step(self, x: Tensor, state: State, mask: Tensor | None = None) -> State:
        """Return the state after one step.

        Args:
            x: the input, (B, I).
            state: the state before the step.
            mask: dropout factors of h on its way into this step, (B, H); the h that is carried
                over is not masked.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run a window.

        Args:
            x: the input at each step, (T, B, I).
            state: the state before the first step.

        Returns:
            h of every step, (T, B, H), and the state after the last. Neither is masked.
        """
        masks = self.draw_masks(x)
        outputs = []
        for index, x_now in enumerate(x):
            state = self.step(x_now, state, mask_of(masks, index))
            outputs.append(state[0])
        return torch.stack(outputs), state

    def draw_masks(self, x: Tensor) -> Tensor | None:
        """Draw the dropout factors of h for a window (T, B, I); None where nothing is dropped."""
        if not self.drop.acts:
            return None
        return self.drop.draw((*x.shape[-3:-1], self.hidden_size), x)


def mask_of(masks: Tensor | None, step: int) -> Tensor | None:
    """Return a step's mask, (B, H) or (G, B, H), of those of a window.

    Args:
        masks: (T, B, H); (1, B, H) if all steps share one; (G, 1, B, H) if each gate has its own.
        step: the step, from 0.
    """
    return None if masks is None else masks.select(-3, step if masks.shape[-3] > 1 else 0)


class AffineLayer(RecurrentLayer):
    """A layer whose gates take x and h through two affine maps, A x + b and A' h + b'.

    Its classes are also PyTorch modules of one layer, which hold the weights: ``weight_ih_l0``
    (G * H, I), ``weight_hh_l0`` (G * H, H), ``bias_ih_l0`` and ``bias_hh_l0`` (G * H,).

    Attributes:
        gates: G.
        is_fused: whether PyTorch's module computes the same formula.
    """

    gates: ClassVar[int]
    is_fused: ClassVar[bool] = True
    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(
        self, input_size: int, hidden_size: int, drop: Dropout, precision: str = "fp32"
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.drop = drop
        self.precision = precision

    @staticmethod
    def combine(from_input: Tensor, from_state: Tensor, state: State) -> State:
        """Return the state after a step, given A x + b and A' h + b', both (B, G * H)."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State, mask: Tensor | None = None) -> State:
        """See :class:`RecurrentLayer`."""
        h = state[0] if mask is None else state[0] * mask
        from_input = linear(x, self.weight_ih_l0, self.bias_ih_l0)
        from_state = linear(h, self.weight_hh_l0, self.bias_hh_l0)
        return self.combine(from_input, from_state, state)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """See :class:`RecurrentLayer`.

        Args:
            x: (T, B, I), or (G, T, B, I) if each gate has an input of its own.
            state: the state before the first step.
        """
        masks = self.draw_masks(x)
        if x.dim() == 3 and masks is None and self.is_fused and self._has_kernel(x.device):
            return self._run_fused(x, state)
        return self.run_stepwise(x, state, masks)

    def _has_kernel(self, device: torch.device) -> bool:
        if self.precision != "bf16":
            return True
        if device.type == "cuda":
            return has_bfloat16_layers_on_cuda()
        return not isinstance(self, nn.LSTM) or has_bfloat16_lstm()

    def _run_fused(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        pytorchs: Any = super(RecurrentLayer, self)  # nn.LSTM and the others come after it
        before = tuple(part.unsqueeze(0) for part in state)
        outputs, after = pytorchs.forward(x, before if self.states > 1 else before[0])
        parts = after if self.states > 1 else (after,)
        return outputs, tuple(
            part.squeeze(0).to(old) for part, old in zip(parts, state, strict=True)
        )

    def run_stepwise(self, x: Tensor, state: State, masks: Tensor | None) -> tuple[Tensor, State]:
        """Run a window by :meth:`combine`, with one product for the inputs of all steps.

        Args:
            x: (T, B, I), or (G, T, B, I) if each gate has an input of its own.
            state: the state before the first step.
            masks: dropout factors of h, see :func:`mask_of`.
        """
        from_input = self._from_input(x)
        state_map = _StateMap(self.weight_hh_l0, self.bias_hh_l0, from_input)
        outputs = []
        for index, affine in enumerate(from_input):  # (B, G * H)
            mask = mask_of(masks, index)
            h = state[0] if mask is None else state[0] * mask  # (B, H) or (G, B, H)
            after = self.combine(affine, state_map.step(h), state)
            state = tuple(part.to(old) for part, old in zip(after, state, strict=True))
            outputs.append(state[0])
        return torch.stack(outputs), state

    def _from_input(self, x: Tensor) -> Tensor:
        """Return A x + b, (T, B, G * H), of x, (T, B, I) or (G, T, B, I)."""
        if x.dim() == 3:
            return linear(x, self.weight_ih_l0, self.bias_ih_l0)
        weights, biases = self.weight_ih_l0.chunk(len(x)), self.bias_ih_l0.chunk(len(x))
        return torch.cat([linear(*gate) for gate in zip(x, weights, biases, strict=True)], dim=-1)


class LSTM(AffineLayer, nn.LSTM):  # type: ignore[misc]
    """i, f, o = sigm and g = tanh of A x + A' h + b; c' = f * c + i * g; h' = o * tanh(c').

    The gates are stacked in the order i, f, g, o.
    """

    gates, states = 4, 2

    @staticmethod
    def combine(from_input: Tensor, from_state: Tensor, state: State) -> State:
        """See :class:`AffineLayer`."""
        _, c = state
        i, f, g, o = (from_input + from_state).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class GRU(AffineLayer, nn.GRU):  # type: ignore[misc]
    """r, z = sigm of A x + A' h + b; n = tanh(A x + b + r * (A' h + b')); h' = (1 - z) n + z h.

    The three are stacked in the order r, z, n.
    """

    gates = 3

    @staticmethod
    def combine(from_input: Tensor, from_state: Tensor, state: State) -> State:
        """See :class:`AffineLayer`."""
        (h,) = state
        r_in, z_in, n_in = from_input.chunk(3, dim=-1)
        r_state, z_state, n_state = from_state.chunk(3, dim=-1)
        r, z = torch.sigmoid(r_in + r_state), torch.sigmoid(z_in + z_state)
        n = torch.tanh(n_in + r * n_state)
        return ((1 - z) * n + z * h,)


class TanhRNN(AffineLayer, nn.RNN):  # type: ignore[misc]
    """The classic RNN, h' = tanh(A x + A' h + b)."""

    gates = 1

    @staticmethod
    def combine(from_input: Tensor, from_state: Tensor, state: State) -> State:
        """See :class:`AffineLayer`."""
        return (torch.tanh(from_input + from_state),)


class SigmoidRNN(AffineLayer, nn.RNN):  # type: ignore[misc]
    """The classic RNN, h' = sigm(A x + A' h + b); PyTorch has no kernel for it."""

    gates = 1
    is_fused = False

    @staticmethod
    def combine(from_input: Tensor, from_state: Tensor, state: State) -> State:
        """See :class:`AffineLayer`."""
        return (torch.sigmoid(from_input + from_state),)


LAYERS: dict[str, type[AffineLayer]] = {
    "lstm": LSTM,
    "gru": GRU,
    "rnn-tanh": TanhRNN,
    "rnn-sigmoid": SigmoidRNN,
}
"""The kinds of layers, by ``model.cell``."""


class _StateMap:
    """The affine map A' h + b' of one step after the other.

    Autograd would add up the gradient of A' from T products of B columns, each as large as A'
    itself. Here it is one product of T * B columns, once the gradient of every step is known.
    """

    def __init__(self, weight: Tensor, bias: Tensor, from_input: Tensor) -> None:
        """Prepare a window whose products have the sizes and the type of A x + b, (T, B, G * H)."""
        steps, streams, _ = from_input.shape
        self._weight = weight.detach().to(from_input.dtype)  # in bfloat16, cast once
        self._taken: list[Tensor] = []
        biases: Tensor = _BiasOfSteps.apply(  # type: ignore[no-untyped-call]
            weight, bias, (steps, streams), from_input.dtype, self._taken
        )
        self._biases = biases.unbind()

    def step(self, h: Tensor) -> Tensor:
        """Return the map (B, G * H) of h (B, H), or of an h for each gate (G, B, H)."""
        bias = self._biases[len(self._taken)]
        self._taken.append(h.detach())
        if h.dim() == 2:
            return torch.addmm(bias, h, self._weight.t())
        gates = self._weight.view(len(h), -1, h.shape[-1])  # (G, H, H)
        return (h @ gates.mT).transpose(0, 1).flatten(1) + bias


class _BiasOfSteps(torch.autograd.Function):
    """The bias b' repeated for T steps.

    Its backward pass receives the gradient of A' h + b' for all steps at once, and returns that of
    A' as well, as one matrix product instead of T.
    """

    @staticmethod
    def forward(
        context: Any,
        weight: Tensor,
        bias: Tensor,
        sizes: tuple[int, int],
        dtype: torch.dtype,
        taken: list[Tensor],
    ) -> Tensor:
        """Repeat the bias, (T, B, G * H); ``taken`` is filled later with the h of each step."""
        context.taken, context.dtype = taken, weight.dtype
        return bias.to(dtype).expand(*sizes, -1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """Return the gradients of A', (G * H, H), and of b', (G * H,)."""
        (gradient,) = gradients
        of_bias = gradient.sum((0, 1))
        h = torch.stack(context.taken).to(gradient.dtype)  # (T, B, H) or (T, G, B, H)
        if h.dim() == 3:
            of_weight = gradient.flatten(0, 1).T @ h.flatten(0, 1)
        else:
            gates = torch.stack(gradient.chunk(h.shape[1], dim=-1)).flatten(1, 2)  # (G, T * B, H)
            of_weight = (gates.mT @ h.transpose(0, 1).flatten(1, 2)).flatten(0, 1)
        return of_weight.to(context.dtype), of_bias.to(context.dtype), None, None, None
