"""Training steps, each launched operation by operation: the plain form, on every device.

Shapes: T unrolled steps, B streams, V words.
"""

import time
from typing import Protocol

import torch
from torch import Tensor

from ptb_lm.corpus.batching import training_window
from ptb_lm.errors import PtbLmError
from ptb_lm.model.state import detach
from ptb_lm.training.run import Run
from ptb_lm.training.sgd import clip_factor, gradient_norm, sgd_step_


class Steps(Protocol):
    """A way to make the steps of a run.

    Attributes:
        stride: the most steps per call of `take`; between calls the loop records, saves and checks
            for a stop.
    """

    stride: int

    def take(self, count: int, rate: float) -> float:
        """Make so many steps of the epoch under way at a learning rate, and bring the run there.

        Returns:
            the global norm of the last step's gradient, before the clip.

        Raises:
            PtbLmError: an objective or a gradient is not a number. The weights have not been
                updated since.
        """


def window_objective(nll: Tensor, streams: int) -> Tensor:
    """Return the NLL summed over the T steps and averaged over the B streams.

    The paper's learning rate of 1.0 and its clip act on this sum, as its published code has it. A
    mean over T * B would shrink the gradient T times and land far from the paper's figures.

    Args:
        nll: of each target of a window, (T, B); where several processes share the streams, (T, b).
        streams: B. The objectives of all processes add up to that of the batch.
    """
    return nll.sum() / streams


class EagerSteps:
    """Steps in the order that the paper's section 4 tells.

    Where several processes share the streams, each has its columns B / n wide, and the sum over
    all is made before the clip: the gradient of the whole batch.
    """

    stride = 1

    def __init__(self, run: Run) -> None:
        self.run = run

    def take(self, count: int, rate: float) -> float:
        """See :class:`Steps`."""
        for _ in range(count):
            norm = self._step(rate)
        return norm.item()

    def _step(self, rate: float) -> Tensor:
        training, network, state = self.run.config.training, self.run.network, self.run.state
        began = time.perf_counter()
        columns, streams, steps = self.run.columns, training.batch_size, training.unrolled_steps
        inputs, targets = training_window(columns, state.windows_done, steps)
        output = network(inputs, state.hidden)
        objective = window_objective(network.decoder.nll(output.dropped, targets), streams)
        objective.backward()  # type: ignore[no-untyped-call]
        self.run.world.all_reduce_gradients_(network.parameters())
        self.run.world.all_reduce_(objective.detach())
        norm = gradient_norm(network.parameters())
        require_finite(self.run, rate, objective, norm)
        update_rate = rate * clip_factor(norm, training.clip_norm)
        sgd_step_(network.parameters(), update_rate, training.weight_decay)
        nll_sum = objective.item() * streams  # waits for the device
        seconds = time.perf_counter() - began
        state.add_windows(1, nll_sum, steps * streams, detach(output.state), seconds)
        return norm


def require_finite(run: Run, rate: float, objective: Tensor, norm: Tensor) -> None:
    """Stop before an update that would put NaN or infinity into the weights.

    A NaN or an infinity in any gradient makes their global norm one.

    Raises:
        PtbLmError: naming the step, both values, and what there is to go back to.
    """
    if not torch.isfinite(objective + norm):  # one read-back from the device
        raise non_finite_error(run, run.step + 1, rate, objective.item(), norm.item())


def non_finite_error(run: Run, step: int, rate: float, objective: float, norm: float) -> PtbLmError:
    """Return the error of a step whose update was not made."""
    return run.divergence_error(
        f"in step {step:,} the objective is {objective:.6g}, the gradient norm {norm:.6g}, "
        f"the learning rate {rate:.6g}; the weights were not updated"
    )
