"""The optimizer: one clipped step on the parameters, on any device, without waiting for it.

What an optimizer reads at each step (rate, clip factor, whether to skip the update) lies in tensors
on the device, so that a step can be captured as a CUDA graph.

Shapes: V words, H units, N occurrences of words in a window.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

from ptb_lm.config import AdamConfig, OptimizerConfig, SgdConfig
from ptb_lm.model.network import LanguageModel

Parameters = Mapping[str, nn.Parameter]
"""Parameters by their names in a checkpoint."""

OptimizerState = dict[str, dict[str, Tensor]]
"""The state of an optimizer between steps: for each slot, such as ``exp_avg``, a tensor of each
parameter by name."""


class Optimizer(Protocol):
    """The interface of all optimizers.

    Attributes:
        slots: the names of the values that are kept of each parameter between steps.
        takes_rows: whether the gradient of an embedding may be sparse, with the rows of the words
            in the window.
    """

    slots: ClassVar[tuple[str, ...]]
    takes_rows: ClassVar[bool]

    def __init__(self, parameters: Parameters, config: Any) -> None: ...

    def step(self, rate: Tensor, factor: Tensor, skip: Tensor) -> None:
        """Update the parameters and drop their gradients.

        Args:
            rate: the learning rate, float64 ().
            factor: see :func:`clip_factor`.
            skip: float32 (): where it is 1, nothing is updated.
        """

    def state_dict(self) -> OptimizerState:
        """Return the state; the tensors are the optimizer's own."""

    def load_state_dict(self, state: OptimizerState) -> None:
        """Take over a state of this optimizer; an empty one is that before the first step."""


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


def _rate_dtype(device: torch.device) -> torch.dtype:
    """Return the type of a learning rate that PyTorch's fused kernels read."""
    return torch.float32 if device.type == "cuda" else torch.float64


class Sgd:
    """Plain SGD, as in arXiv 1409.2329: p -= rate * clip factor * gradient.

    Then, whatever the rate, p -= weight_decay * p, as in the code of arXiv 1512.05287.

    Clipping scales the rate, not the gradients, which saves a pass over them. The gradient of an
    embedding may be sparse: only the rows of the words in the window are updated.

    This is no ``torch.optim.Optimizer``: constructing the first one of a process imports PyTorch's
    compiler, which takes 1.2 seconds and 72 MB. The update itself is PyTorch's fused kernel.

    Args:
        parameters: the network's.
        config: the weight decay is the share of each parameter that a step takes from it.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    takes_rows: ClassVar[bool] = True

    def __init__(self, parameters: Parameters, config: SgdConfig) -> None:
        self.parameters = list(parameters.values())
        self.weight_decay = config.weight_decay

    def state_dict(self) -> OptimizerState:
        """See :class:`Optimizer`: there is nothing to keep."""
        return {}

    def load_state_dict(self, state: OptimizerState) -> None:
        """See :class:`Optimizer`."""

    @torch.no_grad()
    def step(self, rate: Tensor, factor: Tensor, skip: Tensor) -> None:
        """See :class:`Optimizer`."""
        dense: list[Tensor] = []
        gradients: list[Tensor] = []
        step_size = rate * factor
        for parameter in self.parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                steps = gradient._values().mul_(-step_size.to(gradient.dtype))
                steps.masked_fill_(skip.bool(), 0)
                parameter.index_add_(0, gradient._indices()[0], steps)
            else:
                dense.append(parameter)
                gradients.append(gradient)
            parameter.grad = None
        sgd(
            dense,
            gradients,
            [None] * len(dense),
            fused=True,
            found_inf=skip,
            lr=cast(float, step_size.to(_rate_dtype(step_size.device))),
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


class Adam:
    """Adam (arXiv 1412.6980) or AdamW (arXiv 1711.05101), both PyTorch's, after a clip.

    The state begins at zero.
    """

    slots: ClassVar[tuple[str, ...]] = ("step", "exp_avg", "exp_avg_sq")
    takes_rows: ClassVar[bool] = False

    def __init__(self, parameters: Parameters, config: AdamConfig) -> None:
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        self.parameters = dict(parameters)
        device = next(iter(parameters.values())).device
        self.optimizer = kinds[config.kind](
            list(parameters.values()),
            lr=torch.zeros((), dtype=_rate_dtype(device), device=device),
            betas=(config.betas[0], config.betas[1]),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )
        for parameter in parameters.values():
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }

    @torch.no_grad()
    def step(self, rate: Tensor, factor: Tensor, skip: Tensor) -> None:
        """See :class:`Optimizer`."""
        for parameter in self.parameters.values():
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
        (group,) = self.optimizer.param_groups
        group["lr"].copy_(rate)
        # Where PyTorch's gradient scaler says whether it found an infinity.
        self.optimizer.found_inf = skip
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state_dict(self) -> OptimizerState:
        """See :class:`Optimizer`."""
        return {
            slot: {name: self.optimizer.state[p][slot] for name, p in self.parameters.items()}
            for slot in self.slots
        }

    @torch.no_grad()
    def load_state_dict(self, state: OptimizerState) -> None:
        """See :class:`Optimizer`."""
        for slot, values in self.state_dict().items():
            for name, value in values.items():
                if state:
                    value.copy_(state[slot][name])
                else:
                    value.zero_()


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": Sgd, "adam": Adam, "adamw": Adam}
"""The optimizers, by ``optimizer.kind``."""


def build_optimizer(network: LanguageModel, config: OptimizerConfig) -> Optimizer:
    """Return the optimizer of a network, and let the network's gradients be as it takes them."""
    kind = OPTIMIZERS[config.kind]
    network.embedding.sparse &= kind.takes_rows
    return kind(dict(network.named_parameters()), config)
