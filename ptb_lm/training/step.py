"""The training step: the same lines on every device.

On a CPU it runs eagerly; on a GPU it is captured once as a CUDA graph and replayed, because
launching its few hundred short operations one by one takes longer than computing them. Therefore
everything that the step reads and writes lies in tensors that stay where they are.

Shapes: T unrolled steps, B streams, V words.
"""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from ptb_lm.corpus.batching import training_window
from ptb_lm.errors import PtbLmError
from ptb_lm.model.cuda_graph import Capture, captured
from ptb_lm.model.padding import copy_state_, copy_weights_, padded_copy
from ptb_lm.training.optim import OPTIMIZERS, build_optimizer, clip_factor, gradient_norm
from ptb_lm.training.run import Run

WIDTH_MULTIPLE = 8
"""Widths that the GPU's kernels for TF32 and bfloat16 are made for."""


def window_objective(nll: Tensor, streams: int) -> Tensor:
    """Return the NLL summed over the T steps and averaged over the B streams.

    The paper's learning rate of 1.0 and its clip act on this sum, as its published code has it. A
    mean over T * B would shrink the gradient T times and land far from the paper's figures.

    Args:
        nll: of each target of a window, (T, B); where several processes share the streams, (T, b).
        streams: B. The objectives of all processes add up to that of the batch.
    """
    return nll.sum() / streams


class Stepper:
    """Makes the steps of a run.

    Attributes:
        max_steps_per_call: the most steps of a call of :meth:`advance`; between calls the loop
            records, saves and checks for a stop.
        network: the run's, or on a GPU a copy of it with padded widths.
        is_copied: whether it is a copy, with its own copy of the state.
        hidden: the state before the next window.
        window: the index of the next window, int64 ().
        rate: the learning rate, float64 ().
        nll_sum: NLL of the targets of this call, float64 ().
        latest: window, objective and gradient norm of the latest step, float64 (3,); of the first
            step that was not finite, if there was one.
        skip: 1 if there was one, else 0, float32 ().
    """

    def __init__(self, run: Run, capture: Capture | None = None) -> None:
        """Prepare the steps.

        Args:
            run: the run.
            capture: how the step is captured; None runs it eagerly.
        """
        self.run, self.is_copied = run, capture is not None
        self.max_steps_per_call = 200 if self.is_copied else 1
        # The state of an optimizer and the average have the network's own widths.
        slots = OPTIMIZERS[run.config.optimizer.kind].slots
        has_state = slots or run.config.averaging.kind != "none"
        multiple = 1 if has_state else WIDTH_MULTIPLE
        self.network = padded_copy(run.network, multiple) if self.is_copied else run.network
        self.parameters = dict(self.network.named_parameters())
        device = run.columns.device
        self.optimizer = build_optimizer(self.network, run.config.optimizer)
        self.hidden = self.network.zero_state(run.share.streams)
        self.window = torch.zeros((), dtype=torch.int64, device=device)
        self.rate = torch.zeros((), dtype=torch.float64, device=device)
        self.nll_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.latest = torch.zeros(3, dtype=torch.float64, device=device)
        self.skip = torch.zeros((), dtype=torch.float32, device=device)
        self.replay = self._step if capture is None else capture(self._step)
        # A capture that failed midway has left gradients, to which those of a step would be added.
        self.network.zero_grad(set_to_none=True)
        self.optimizer.load_state_dict(run.optimizer_state())
        run.optimizer = self.optimizer

    def advance(self, rates: Sequence[float]) -> float:
        """Make steps of the current epoch, updating the weights and the run's state in place.

        Args:
            rates: the learning rate of each step.

        Returns:
            the global norm of the last step's gradient, before the clip.

        Raises:
            PtbLmError: an objective or a gradient is not a number. The weights have not been
                updated since.
        """
        run, state, training = self.run, self.run.state, self.run.config.training
        began = time.perf_counter()
        self._load()
        for rate in rates:
            self.rate.fill_(rate)
            self.replay()
            run.averager.update(self.parameters, state.epochs_done + 1)
        # The only read-back: it waits for the device.
        nll_sum, window, objective, norm = torch.cat([self.nll_sum[None], self.latest]).tolist()
        if self.is_copied:
            copy_weights_(run.network, self.network)
        if not math.isfinite(objective + norm):
            place = int(window) - state.windows_done
            raise non_finite_error(run, run.step + place + 1, rates[place], objective, norm)
        if self.is_copied:
            copy_state_(state.hidden, self.hidden)
        targets = len(rates) * training.unrolled_steps * training.batch_size
        state.add_windows(len(rates), nll_sum, targets, time.perf_counter() - began)
        return float(norm)

    def _load(self) -> None:
        """Load weights, state and position into the tensors that the step uses."""
        if self.is_copied:
            copy_weights_(self.network, self.run.network)
            copy_state_(self.hidden, self.run.state.hidden)
        else:
            self.hidden = self.run.state.hidden
        self.window.fill_(self.run.state.windows_done)
        self.nll_sum.zero_()
        self.latest.zero_()
        self.skip.zero_()

    def _step(self) -> None:
        """Make one step; where several processes share the streams, with the sum of their parts."""
        run, training, network = self.run, self.run.config.training, self.network
        inputs, targets = training_window(run.columns, self.window, training.unrolled_steps)
        output = network(inputs, self.hidden)
        nll = network.decoder.nll(output.dropped, targets)  # (T, B)
        objective = window_objective(nll, training.batch_size)
        objective.backward()  # type: ignore[no-untyped-call]
        run.world.all_reduce_gradients_(network.parameters())
        run.world.all_reduce_(objective.detach())
        norm = gradient_norm(network.parameters())
        self._record(objective.detach().double(), norm.double())
        factor = clip_factor(norm, run.config.optimizer.clip_norm)
        self.optimizer.step(self.rate, factor, self.skip)
        copy_state_(self.hidden, output.state)
        # Wrap around: the warm-up of a capture advances the window, and a text may have fewer.
        self.window.add_(1).remainder_(run.windows)

    def _record(self, objective: Tensor, norm: Tensor) -> None:
        """Record objective and gradient norm.

        After the first step that is not finite, its values are kept and updates are disabled. A NaN
        or an infinity in any gradient makes their global norm one.
        """
        now = torch.stack([self.window.double(), objective, norm])
        self.latest.copy_(torch.where(self.latest.isfinite().all(), now, self.latest))
        self.skip.copy_(~self.latest.isfinite().all())
        self.nll_sum += objective * self.run.config.training.batch_size


def stepper_of(run: Run) -> Stepper:
    """Return the fastest way to make the steps of a run on its device."""
    is_eager = run.columns.device.type == "cpu" or run.world.size > 1
    return Stepper(run, None if is_eager else captured)


def non_finite_error(run: Run, step: int, rate: float, objective: float, norm: float) -> PtbLmError:
    """Return the error of a step whose update was not made."""
    return run.divergence_error(
        f"in step {step:,} the objective is {objective:.6g}, the gradient norm {norm:.6g}, "
        f"the learning rate {rate:.6g}; the weights were not updated"
    )
