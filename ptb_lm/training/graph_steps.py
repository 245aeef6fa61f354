"""Training steps without a wait for the device in between: each a replay of one CUDA graph.

Shapes: T unrolled steps, B streams, V words.
"""

import math
import time
from typing import cast

import torch
from torch import Tensor, nn

from ptb_lm.corpus.batching import training_window_at
from ptb_lm.model.cuda_graph import Capture, captured
from ptb_lm.model.padding import copy_state_, copy_weights_, padded_copy
from ptb_lm.training.run import Run
from ptb_lm.training.sgd import (
    add_rows_,
    clip_factor_on_device,
    fused_sgd,
    gradient_norm,
    merged_rows,
)
from ptb_lm.training.steps import non_finite_error, window_objective

WIDTH_MULTIPLE = 8
"""Widths that the kernels for TF32 and bfloat16 are made for."""


class GraphSteps:
    """What :class:`~ptb_lm.training.steps.EagerSteps` computes, on tensors that stay on the device.

    :meth:`take` puts the weights and the state of the run there, replays the step as often as it
    is asked for, and brings both back, so that between two calls the run is as it always is. A step
    reads its place in the text and the learning rate from the device, and leaves there what it
    has to say. After one whose objective or gradient is not a number no update is made.
    """

    stride = 200

    def __init__(self, run: Run, capture: Capture = captured) -> None:
        self.run = run
        self.network = padded_copy(run.network, WIDTH_MULTIPLE)
        self.hidden = self.network.zero_state(run.config.training.batch_size)
        device = run.columns.device
        self.window = torch.zeros((), dtype=torch.int64, device=device)
        self.rate = torch.zeros((), device=device)
        self.nll_sum = torch.zeros((), dtype=torch.float64, device=device)
        # Window, objective and norm of the latest step: of the first without a number, if any.
        self.latest = torch.zeros(3, dtype=torch.float64, device=device)
        self.update_rate = torch.zeros((), device=device)
        self.without_update = torch.zeros((), device=device)  # 1 where there is to be none
        # The fused kernel takes no sparse gradient, such as the embedding's is.
        embedding = self.network.embedding
        self.by_rows = [cast(nn.Parameter, embedding.weight)] if embedding.sparse else []
        taken = {id(weight) for weight in self.by_rows}
        dense = [weight for weight in self.network.parameters() if id(weight) not in taken]
        self.sgd = fused_sgd(dense, self.update_rate, self.without_update)
        self.replay = capture(self._step)
        # A capture that failed midway has left gradients, to which those of a step would be added.
        self.network.zero_grad(set_to_none=True)

    def take(self, count: int, rate: float) -> float:
        """See :class:`~ptb_lm.training.steps.Steps`."""
        run, state, training = self.run, self.run.state, self.run.config.training
        began = time.perf_counter()
        copy_weights_(self.network, run.network)
        copy_state_(self.hidden, state.hidden)
        self.window.fill_(state.windows_done)
        self.rate.fill_(rate)
        self.nll_sum.zero_()
        self.latest.zero_()
        for _ in range(count):
            self.replay()
        # The one read-back: waits for the device.
        nll_sum, window, objective, norm = torch.cat([self.nll_sum[None], self.latest]).tolist()
        copy_weights_(run.network, self.network)
        if not math.isfinite(objective + norm):
            step = state.epochs_done * run.windows + int(window) + 1
            raise non_finite_error(run, step, rate, objective, norm)
        hidden = run.network.zero_state(training.batch_size)
        copy_state_(hidden, self.hidden)
        targets = count * training.unrolled_steps * training.batch_size
        state.add_windows(count, nll_sum, targets, hidden, time.perf_counter() - began)
        return cast(float, norm)

    def _step(self) -> None:
        """Make a step; of what it needs and leaves all is on the device."""
        training, network = self.run.config.training, self.network
        inputs, targets = training_window_at(self.run.columns, self.window, training.unrolled_steps)
        output = network(inputs, self.hidden)
        nll = network.decoder.nll(output.dropped, targets)
        objective = window_objective(nll, training.batch_size)
        objective.backward()  # type: ignore[no-untyped-call]
        for weight in self.by_rows:
            weight.grad = merged_rows(cast(Tensor, weight.grad))
        norm = gradient_norm(network.parameters())
        self._note(objective.detach(), norm)
        self.update_rate.copy_(self.rate * clip_factor_on_device(norm, training.clip_norm))
        self.sgd.step()
        self.sgd.zero_grad()
        for weight in self.by_rows:
            add_rows_(weight, self.update_rate, self.without_update)
        if training.weight_decay:
            self._decay(training.weight_decay)
        copy_state_(self.hidden, output.state)
        self.nll_sum += objective.detach().double() * training.batch_size
        # Round, as the capture takes a few steps, and a text may have fewer windows.
        self.window.add_(1).remainder_(self.run.windows)

    @torch.no_grad()
    def _decay(self, weight_decay: float) -> None:
        """Take its share from each weight, unless there is to be no update."""
        share = weight_decay * (1 - self.without_update)
        for weight in self.network.parameters():
            weight.sub_(weight * share)

    def _note(self, objective: Tensor, norm: Tensor) -> None:
        """Keep what the step has to say, unless one before it had no number to say."""
        now = torch.stack([self.window.double(), objective.double(), norm.double()])
        self.latest.copy_(torch.where(self.latest.isfinite().all(), now, self.latest))
        self.without_update.copy_(~self.latest.isfinite().all())
