"""Helpers for the tests of networks."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from ptb_lm.config import SgdConfig
from ptb_lm.model.decoder import Softmax
from ptb_lm.model.dropout import Dropout
from ptb_lm.model.layers import LAYERS, AffineLayer
from ptb_lm.model.network import LanguageModel, WindowOutput
from ptb_lm.model.state import HiddenState
from ptb_lm.training.optim import Sgd, clip_factor, gradient_norm


def layer_of(cell: str, inputs: int, units: int, weights: Sequence[Tensor] = ()) -> AffineLayer:
    """Return a layer in float64 without dropout.

    Args:
        cell: its kind.
        inputs: I.
        units: H.
        weights: ``weight_ih``, ``weight_hh``, ``bias_ih`` and ``bias_hh``, if not drawn.
    """
    layer = LAYERS[cell](inputs, units, Dropout(0.0)).double()
    for parameter, weight in zip(layer.parameters(), weights, strict=False):
        parameter.data.copy_(weight)
    return layer


def reference_forward(network: LanguageModel, words: Tensor, hidden: HiddenState) -> WindowOutput:
    """Compute what the network does, step by step with the formula of each layer.

    With dropout off the two agree to rounding in outputs, states and gradients. With dropout on
    each step here draws its own masks, in another order, and on the non-recurrent connections
    alone.
    """
    raw, dropped = [], []
    states = list(hidden)
    for step_words in words:  # (B,)
        x = network.embedding(step_words)  # (B, E)
        for index, layer in enumerate(network.layers):
            x = network.drop["between" if index else "input"](x)
            states[index] = layer.step(x, states[index])
            x = states[index][0]
        raw.append(x)
        dropped.append(network.drop["output"](x))
    return WindowOutput(torch.stack(raw), torch.stack(dropped), states)


def log_probs_of(
    network: LanguageModel, words: Tensor, hidden: HiddenState
) -> tuple[Tensor, HiddenState]:
    """Return ln p of each next word, (T, B, V), and the state after a window."""
    output = network(words, hidden)
    return network.decoder.log_probs(output.dropped), output.state


def objective_of(network: LanguageModel, output: WindowOutput, targets: Tensor) -> Tensor:
    """Return the objective of a window: the sum over its steps, the mean over its streams."""
    return network.decoder.nll(output.dropped, targets).sum() / targets.shape[1]


def changed_nll(change: Callable[[Tensor], Tensor]) -> Callable[[Softmax, Tensor, Tensor], Tensor]:
    """Return a method for :class:`Softmax` that changes the NLL in training, not in scoring."""
    nll = Softmax.nll

    def changed(decoder: Softmax, h: Tensor, targets: Tensor) -> Tensor:
        values = nll(decoder, h, targets)
        return change(values) if torch.is_grad_enabled() else values

    return changed


def sgd_step(
    parameters: Iterable[Parameter], rate: float, weight_decay: float = 0.0, skip: float = 0.0
) -> None:
    """Make a step of SGD without a clip."""
    step_size, one = torch.tensor([rate, 1.0], dtype=torch.float64)
    named = {str(number): parameter for number, parameter in enumerate(parameters)}
    config = SgdConfig(kind="sgd", learning_rate=1.0, clip_norm=1.0, weight_decay=weight_decay)
    Sgd(named, config).step(step_size, one, torch.tensor(skip))


def clipped_step(parameters: Sequence[Parameter], clip_norm: float) -> float:
    """Make a step of SGD at a rate of 1, and return the norm before the clip."""
    norm = gradient_norm(parameters)
    sgd_step(parameters, clip_factor(norm, clip_norm).item())
    return norm.item()
