"""What the tests of networks share."""

from collections.abc import Callable

import torch
from torch import Tensor

from ptb_lm.model.decoder import Softmax
from ptb_lm.model.network import LanguageModel, WindowOutput
from ptb_lm.model.state import HiddenState


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
