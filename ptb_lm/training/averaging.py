"""Averages of the weights over the steps of a training, which are used in their place.

Validation, ``best.pt``, the weights for use in ``last.pt`` and the final scores are those of the
average, once there is one; the training itself continues from its own weights.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import ConfigDict, NonNegativeInt
from torch import Tensor, nn

from ptb_lm.config import AveragingConfig, EmaConfig, NtAsgdConfig, TailConfig

Parameters = Mapping[str, nn.Parameter]
"""Parameters by their names in a checkpoint."""


@dataclass
class AveragerState:
    """The state of an averager between steps.

    Attributes:
        count: the iterates in the average.
        valid_perplexities: those of all epochs done; kept by NT-ASGD alone.
        is_triggered: whether NT-ASGD has begun.
        average: the averaged weights by name; empty before the first iterate.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    count: NonNegativeInt = 0
    valid_perplexities: list[float] = field(default_factory=list)
    is_triggered: bool = False
    average: dict[str, Tensor] = field(default_factory=dict)


class Averager:
    """Averages the weights after each step, as ``[averaging]`` has it.

    Attributes:
        config: the kind and its keys.
        state: the average so far.
    """

    def __init__(self, config: AveragingConfig) -> None:
        self.config = config
        self.state = AveragerState()

    @torch.no_grad()
    def update(self, parameters: Parameters, epoch: int) -> None:
        """Take the weights after a step into the average.

        Args:
            parameters: the network's.
            epoch: the epoch of the step, counted from 1.
        """
        if not self._is_averaging(epoch):
            return
        state = self.state
        state.count += 1
        if not state.average:
            state.average = {name: weight.detach().clone() for name, weight in parameters.items()}
            return
        share = self._share()
        for name, weight in parameters.items():
            state.average[name].lerp_(weight, share)

    def _is_averaging(self, epoch: int) -> bool:
        if isinstance(self.config, TailConfig):
            return epoch >= self.config.from_epoch
        return isinstance(self.config, EmaConfig) or self.state.is_triggered

    def _share(self) -> float:
        """Return the share of the newest iterate in the average."""
        if isinstance(self.config, EmaConfig):
            return 1 - self.config.decay
        if isinstance(self.config, NtAsgdConfig):
            # torch.optim.ASGD, with which the figures were made, leaves the first iterate out.
            return 1 / (self.state.count - 1)
        return 1 / self.state.count

    def after_validation(self, perplexity: float) -> None:
        """Note an epoch's validation perplexity, by which NT-ASGD begins.

        It begins after an epoch that is worse than the best of all but the last
        ``non_monotone_epochs`` epochs before it (arXiv 1708.02182; the condition is that of the
        published code, as the paper's has a misprint).
        """
        if not isinstance(self.config, NtAsgdConfig):
            return
        earlier = self.state.valid_perplexities[: -self.config.non_monotone_epochs]
        self.state.is_triggered |= bool(earlier) and perplexity > min(earlier)
        self.state.valid_perplexities.append(perplexity)

    @contextmanager
    def applied(self, network: nn.Module) -> Iterator[None]:
        """Use the average, if there is one, as the network's weights within."""
        self._exchange(network)
        try:
            yield
        finally:
            self._exchange(network)

    @torch.no_grad()
    def _exchange(self, network: nn.Module) -> None:
        """Exchange weights and average, with memory for one parameter more."""
        for name, average in self.state.average.items():
            weight = network.get_parameter(name)
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)
