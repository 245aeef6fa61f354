"""Stochastic gradient descent with a clipped global norm, in place on the parameters.

The gradient of the embedding is sparse: the rows of the words that a window has.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the global norm of the gradient over all parameters, embeddings included; 0-dim.

    It is the norm of the norms of rows: added up in one go, millions of squares in float32 lose the
    small ones, of which the gradient of the softmax has most.
    """
    norms = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            # A word that a window has twice has two rows, whose sum counts.
            gradient = parameter.grad = gradient.coalesce()
            gradient = gradient.values()
        norms.append(torch.linalg.vector_norm(torch.linalg.vector_norm(gradient, dim=-1)))
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def clip_factor(norm: Tensor, clip_norm: float) -> float:
    """Return what a gradient is multiplied by, so that its global norm is at most ``clip_norm``."""
    return min(1.0, clip_norm / norm.item()) if norm else 1.0


def clip_factor_on_device(norm: Tensor, clip_norm: float) -> Tensor:
    """Return what :func:`clip_factor` does, without waiting for the norm, as float32 ()."""
    return (clip_norm / norm).clamp(max=1).float()


@torch.no_grad()
def sgd_step_(
    parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float = 0.0
) -> None:
    """Subtract the gradients times the rate, drop them, and let the weights decay.

    As Gal's code has it, a decay takes its share after the clipped step, whatever the rate.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.add_(parameter.grad, alpha=-learning_rate)
            parameter.grad = None
        if weight_decay:
            # Not by 1 - weight_decay, which float32 has no room for where the decay is small.
            parameter.add_(parameter, alpha=-weight_decay)


def merged_rows(gradient: Tensor) -> Tensor:
    """Return a sparse gradient in which a word that a window has twice counts once, with the sum.

    As ``coalesce`` does, which has to wait for the number of different words. Here the first row of
    a word takes the sum of all, and the others stay, as zero.

    Args:
        gradient: of V words, sparse, with a row for each of N occurrences.
    """
    (words,), rows = gradient._indices(), gradient._values()  # (N,), (N, H)
    occurrences = torch.arange(len(words), device=words.device)
    first = words.new_full((gradient.shape[0],), len(words))  # (V,)
    first.scatter_reduce_(0, words, occurrences, "amin")
    merged = torch.zeros_like(rows).index_add_(0, first[words], rows)
    # All is done that makes a gradient coalesced, but for the order of its rows.
    return torch.sparse_coo_tensor(
        words[None], merged, gradient.shape, is_coalesced=True, check_invariants=False
    )


@torch.no_grad()
def add_rows_(parameter: nn.Parameter, learning_rate: Tensor, without_update: Tensor) -> None:
    """Do for a gradient of :func:`merged_rows` what :func:`fused_sgd` does for dense ones."""
    gradient = cast(Tensor, parameter.grad)
    steps = -learning_rate * gradient._values()
    nothing = torch.zeros((), dtype=steps.dtype, device=steps.device)
    steps = torch.where(without_update.bool(), nothing, steps)
    parameter.index_add_(0, gradient._indices()[0], steps)
    parameter.grad = None


def fused_sgd(
    parameters: Iterable[nn.Parameter], learning_rate: Tensor, without_update: Tensor
) -> torch.optim.SGD:
    """Return PyTorch's SGD in one kernel that reads its rate from the device.

    Args:
        parameters: with dense gradients.
        learning_rate: float32 (), read at each step.
        without_update: float32 (), likewise: where it is 1, a step changes nothing.
    """
    sgd = torch.optim.SGD(parameters, lr=learning_rate, fused=True)
    # Where PyTorch's gradient scaler says whether it found an infinity.
    sgd.found_inf = without_update  # type: ignore[attr-defined]
    return sgd
