"""What is minimised in training and what is counted in evaluation.

Shapes: T steps, B streams, V words, N tokens of a text. All likelihoods are in nats.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ptb_lm.corpus.batching import evaluation_windows, require_columns
from ptb_lm.corpus.vocabulary import TokenIds
from ptb_lm.model.libraries import require_headroom
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.state import first_streams
from ptb_lm.stop import NEVER, StopFlag

# A window of evaluation holds about this many targets; their logits over 10,000 words take 40 MB.
TARGETS_PER_WINDOW = 1000


def window_objective(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the NLL summed over the T steps and averaged over the B streams.

    The paper's learning rate of 1.0 and its clip act on this sum, as its published code has it.
    A mean over T * B would shrink the gradient T times and land far from the paper's figures.

    Args:
        logits: (T, B, V). Overwritten, as they are the largest tensor of a step: by their
            softmax, and that in the backward pass by their gradient.
        targets: int64 (T, B).
    """
    streams = targets.shape[1]
    nll_sum: Tensor = _SummedNll.apply(  # type: ignore[no-untyped-call]
        logits.flatten(0, 1), targets.flatten()
    )
    return nll_sum / streams


class _SummedNll(torch.autograd.Function):
    """The NLL of the targets, summed; the gradient takes the place of the logits.

    With p the softmax of the logits z, the gradient is p - 1 at the target and p elsewhere; the
    NLL is log(sum(exp(z))) - z at the target, and log(sum(exp(z))) = max(z) - log(max(p)), where
    max(p) is at least 1 / V. So that one pass over the logits takes an exponential, not three.
    """

    @staticmethod
    def forward(context: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Add up: logits (N, V), targets (N,)."""
        context.dtype = logits.dtype
        wide = _at_least_float32(logits)
        targets = targets.unsqueeze(1)  # (N, 1)
        at_target, greatest = wide.gather(1, targets), wide.amax(1, keepdim=True)
        probabilities = torch.softmax(wide, dim=1, out=wide)
        log_sum = greatest - probabilities.amax(1, keepdim=True).log()
        context.probabilities, context.targets = probabilities, targets
        return (log_sum - at_target).sum()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Give the gradient of the logits, (N, V)."""
        require_headroom()  # for the kernels of the backward pass, which begins here
        targets: Tensor = context.targets
        gradient: Tensor = context.probabilities
        del context.probabilities  # a second backward pass is an error, not another gradient
        gradient.scatter_add_(1, targets, gradient.new_full(targets.shape, -1))
        return gradient.mul_(gradients[0]).to(context.dtype), None


def _at_least_float32(logits: Tensor) -> Tensor:
    """Return logits as they are, those of bfloat16 as a copy in float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@torch.no_grad()
def target_log_probabilities(
    network: LanguageModel, tokens: TokenIds, streams: int, stop: StopFlag = NEVER
) -> Tensor:
    """Score each token of a text but the first, given all before it in its column.

    The state is zero at the head of each column and goes on from window to window. Dropout is off.

    Args:
        network: left in the mode (training or evaluation) it was in.
        tokens: the text, (N,).
        streams: B columns; 1 is the paper's test protocol.
        stop: looked at before each window.

    Returns:
        ln p of the tokens 1 … N-1 in the order of the text, (N - 1,), on the CPU.

    Raises:
        InputError: the text has fewer targets than streams.
        Stopped: a signal came; the network is as it was.
    """
    require_columns(len(tokens), streams)
    device = network.softmax.weight.device
    text = torch.from_numpy(tokens.astype("int64")).to(device)
    scores = torch.empty(len(tokens) - 1, dtype=network.softmax.weight.dtype, device=device)
    hidden = network.zero_state(streams)
    max_steps = max(1, TARGETS_PER_WINDOW // streams)
    with _evaluation_mode(network):
        for places in evaluation_windows(len(tokens) - 1, streams, max_steps):  # (T, B)
            stop.check()
            places = places.to(device)
            hidden = first_streams(hidden, places.shape[1])
            logits, hidden = network(text[places], hidden)
            wide = _at_least_float32(logits.flatten(0, 1))  # (T * B, V)
            log_probabilities = torch.log_softmax(wide, dim=1, out=wide)
            targets = text[places + 1].view(-1, 1)
            scores[places.flatten()] = log_probabilities.gather(1, targets).squeeze(1)
    return scores.cpu()


@contextmanager
def _evaluation_mode(network: LanguageModel) -> Iterator[None]:
    """Turn dropout off, and back on if it was on."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def nll_sum(log_probabilities: Tensor) -> float:
    """Return the summed NLL of a text, added up in float64."""
    return -float(log_probabilities.sum(dtype=torch.float64))
