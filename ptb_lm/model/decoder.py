"""The decoder: from the top layer's h to the probabilities of the next word.

Nothing outside this file knows how a decoder computes them. Training and scoring ask for the
negative log-likelihood of the targets, sampling and caches for the whole distribution.

Shapes: T steps, B streams, H units of the top layer, V words. All likelihoods are in nats.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ptb_lm.model.backends import products_in, require_headroom


class Decoder(nn.Module):
    """The interface of all decoders.

    Attributes:
        vocabulary_size: V.
        precision: ``bf16``: products in bfloat16, sums in float32; otherwise all in float32.
    """

    vocabulary_size: int
    precision: str

    def nll(self, h: Tensor, targets: Tensor) -> Tensor:
        """Return the negative log-likelihood of each target.

        Args:
            h: the top layer's h after the output dropout, (T, B, H).
            targets: int64 (T, B).

        Returns:
            -ln p of each target, (T, B), in float32 or float64.
        """
        raise NotImplementedError

    def log_probs(self, h: Tensor) -> Tensor:
        """Return ln p of every word, (…, V), in float32 or float64, given h, (…, H)."""
        raise NotImplementedError


class Softmax(Decoder, nn.Linear):
    """The softmax of an affine map of h, as in arXiv 1409.2329."""

    def __init__(self, input_size: int, vocabulary_size: int, precision: str = "fp32") -> None:
        super().__init__(input_size, vocabulary_size)
        self.vocabulary_size = vocabulary_size
        self.precision = precision

    def nll(self, h: Tensor, targets: Tensor) -> Tensor:
        """See :class:`Decoder`."""
        logits = self._logits(h)
        if not torch.is_grad_enabled():
            wide = at_least_float32(logits)
            log_probs = torch.log_softmax(wide, dim=-1, out=wide)
            return log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1).neg_()
        nll: Tensor = _SoftmaxNll.apply(  # type: ignore[no-untyped-call]
            logits.flatten(0, 1), targets.flatten()
        )
        return nll.view_as(targets)

    def log_probs(self, h: Tensor) -> Tensor:
        """See :class:`Decoder`."""
        return torch.log_softmax(at_least_float32(self._logits(h)), dim=-1)

    def _logits(self, h: Tensor) -> Tensor:
        with products_in(self.precision, h.device):
            return nn.functional.linear(h, self.weight, self.bias)


DECODERS: dict[str, type[Softmax]] = {"softmax": Softmax}
"""The kinds of decoders. A network's decoder has its kind's name in checkpoints and exports."""


class _SoftmaxNll(torch.autograd.Function):
    """The NLL of each target; softmax and gradient overwrite the logits, a step's largest tensor.

    With p the softmax of the logits z, the gradient is p - 1 at the target and p elsewhere. The NLL
    is log(sum(exp(z))) - z at the target, and log(sum(exp(z))) = max(z) - log(max(p)), where max(p)
    is at least 1 / V. One pass over the logits takes an exponential, not three.
    """

    @staticmethod
    def forward(context: Any, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the NLL, (N,), of logits (N, V) and targets (N,)."""
        context.dtype = logits.dtype
        wide = at_least_float32(logits)
        targets = targets.unsqueeze(1)  # (N, 1)
        at_target, greatest = wide.gather(1, targets), wide.amax(1, keepdim=True)
        probabilities = torch.softmax(wide, dim=1, out=wide)
        nll = (greatest - at_target) - probabilities.amax(1, keepdim=True).log()
        context.probabilities, context.targets = probabilities, targets
        return nll.squeeze(1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits, (N, V), given that of the NLL, (N,)."""
        require_headroom()  # for the kernels of the backward pass, which begins here
        targets: Tensor = context.targets
        gradient: Tensor = context.probabilities
        del context.probabilities  # a second backward pass is an error, not another gradient
        # Not scatter_add_, which PyTorch's deterministic mode refuses on CUDA.
        gradient.scatter_(1, targets, gradient.gather(1, targets) - 1)
        return gradient.mul_(gradients[0].unsqueeze(1)).to(context.dtype), None


def at_least_float32(values: Tensor) -> Tensor:
    """Return values as they are; those of bfloat16 as a copy in float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
