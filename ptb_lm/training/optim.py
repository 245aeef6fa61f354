"""The optimizer: one clipped step on the parameters, on any device, without waiting for it.

What an optimizer reads at each step (rate, clip factor, whether to skip the update) lies in tensors
on the device, so that a step can be captured as a CUDA graph.

Shapes: V words, H units, N occurrences of words in a window.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the global norm of the gradient over all parameters, embeddings included; 0-dim.

    It is the norm of the norms of rows: added up in one go, millions of squares in float32 lose the
    small ones, of which the gradient of the softmax has most. A sparse gradient is merged first.
    """
    norms = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            gradient = parameter.grad = merged_rows(gradient)
            gradient = gradient._values()
        norms.append(torch.linalg.vector_norm(torch.linalg.vector_norm(gradient, dim=-1)))
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def clip_factor(norm: Tensor, clip_norm: float) -> Tensor:
    """Return what a gradient is multiplied by, so that its global norm is at most ``clip_norm``.

    Returns:
        float64 (), at most 1.
    """
    return (clip_norm / norm.double()).clamp(max=1)


def merged_rows(gradient: Tensor) -> Tensor:
    """Merge the rows of words that occur several times in a window.

    ``coalesce`` does the same, but waits for the device, to learn the number of different words.
    Here one row of a word takes the sum of all, and its other rows become zero.

    Args:
        gradient: sparse, (V, H), with a row for each of the N occurrences.

    Returns:
        sparse, (V, H), with N rows.
    """
    (words,), rows = gradient._indices(), gradient._values()  # (N,), (N, H)
    occurrences = torch.arange(len(words), device=words.device)
    place = torch.empty(gradient.shape[0], dtype=torch.int64, device=words.device)  # (V,)
    place.scatter_(0, words, occurrences)  # of a word's occurrences any one
    merged = torch.zeros_like(rows).index_add_(0, place[words], rows)
    # Everything that makes a gradient coalesced is done, except the order of its rows.
    return torch.sparse_coo_tensor(
        words[None], merged, gradient.shape, is_coalesced=True, check_invariants=False
    )


class Sgd:
    """Plain SGD, as in arXiv 1409.2329: p -= rate * clip factor * gradient.

    Then, whatever the rate, p -= weight_decay * p, as in the code of arXiv 1512.05287.

    Clipping scales the rate, not the gradients, which saves a pass over them. The gradient of an
    embedding may be sparse: only the rows of the words in the window are updated.

    This is no ``torch.optim.Optimizer``: constructing the first one of a process imports PyTorch's
    compiler, which takes 1.2 seconds and 72 MB. The update itself is PyTorch's fused kernel.

    Args:
        parameters: of the network.
        weight_decay: the share of each parameter that a step takes from it.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float = 0.0) -> None:
        self.parameters = list(parameters)
        self.weight_decay = weight_decay

    @torch.no_grad()
    def step(self, rate: Tensor, factor: Tensor, skip: Tensor) -> None:
        """Update the parameters and drop their gradients.

        Args:
            rate: the learning rate, float64 ().
            factor: see :func:`clip_factor`.
            skip: float32 (): where it is 1, nothing is updated.
        """
        dense: list[Tensor] = []
        gradients: list[Tensor] = []
        step_size = rate * factor
        for parameter in self.parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                steps = gradient._values() * -step_size.to(gradient.dtype)
                steps = torch.where(skip.bool(), steps.new_zeros(()), steps)
                parameter.index_add_(0, gradient._indices()[0], steps)
            else:
                dense.append(parameter)
                gradients.append(gradient)
            parameter.grad = None
        is_on_gpu = step_size.device.type == "cuda"  # where the kernel reads float32
        sgd(
            dense,
            gradients,
            [None] * len(dense),
            fused=True,
            found_inf=skip,
            lr=cast(float, step_size.float() if is_on_gpu else step_size),
            weight_decay=0.0,
            momentum=0.0,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if self.weight_decay:
            # Not p *= 1 - weight_decay, which float32 rounds to p where the decay is small.
            share = self.weight_decay * (1 - skip.double())
            for parameter in self.parameters:
                parameter.addcmul_(parameter, share.to(parameter.dtype), value=-1)
