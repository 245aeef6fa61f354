"""What is minimised in training.

Shapes: T steps, B streams, V words. All likelihoods are in nats.
"""

from typing import Any

import torch
from torch import Tensor

from ptb_lm.model.backends import require_headroom


def window_objective(logits: Tensor, targets: Tensor, streams: int | None = None) -> Tensor:
    """Return the NLL summed over the T steps and averaged over the B streams.

    The paper's learning rate of 1.0 and its clip act on this sum, as its published code has it.
    A mean over T * B would shrink the gradient T times and land far from the paper's figures.

    Args:
        logits: (T, B, V). Overwritten, as they are the largest tensor of a step: by their
            softmax, and that in the backward pass by their gradient.
        targets: int64 (T, B).
        streams: B, where the targets are of some of the streams alone; the objectives of all then
            add up to that of the batch.
    """
    nll_sum: Tensor = _SummedNll.apply(  # type: ignore[no-untyped-call]
        logits.flatten(0, 1), targets.flatten()
    )
    return nll_sum / (streams or targets.shape[1])


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
        wide = at_least_float32(logits)
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
        # Not scatter_add_, which PyTorch's deterministic mode refuses on CUDA.
        gradient.scatter_(1, targets, gradient.gather(1, targets) - 1)
        return gradient.mul_(gradients[0]).to(context.dtype), None


def at_least_float32(logits: Tensor) -> Tensor:
    """Return logits as they are, those of bfloat16 as a copy in float32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
