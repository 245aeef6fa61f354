"""Stochastic gradient descent with a clipped global norm, in place on the parameters."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def clip_gradients_(parameters: Iterable[nn.Parameter], clip_norm: float) -> Tensor:
    """Scale all gradients by one factor, so that their global norm is at most ``clip_norm``.

    Returns:
        the norm before, over all parameters, embeddings included; 0-dim.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    scale = (clip_norm / norm).clamp(max=1.0)  # stays on the device: no read-back
    for gradient in gradients:
        gradient.mul_(scale)
    return norm


@torch.no_grad()
def sgd_step_(parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
    """Subtract the gradients times the rate, and drop the gradients."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.sub_(parameter.grad, alpha=learning_rate)
            parameter.grad = None
