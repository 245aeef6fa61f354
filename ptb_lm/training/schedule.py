"""The learning rate as a pure function of the progress of a training."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ptb_lm.config import (
    Config,
    ConstantConfig,
    ConstantThenDecayConfig,
    CosineConfig,
    LinearToZeroConfig,
    OneCycleConfig,
)


@dataclass(frozen=True)
class Moment:
    """The moment before a step.

    Attributes:
        step: steps done since the training began.
        steps_per_epoch: the steps of an epoch.
        epochs: the epochs of the whole training.
    """

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 1."""
        return self.step // self.steps_per_epoch + 1

    @property
    def epochs_done(self) -> float:
        """Epochs done, the current one in part."""
        return self.step / self.steps_per_epoch

    def between(self, begin: float, end: float) -> float:
        """Return how much of the time from one moment to another is over, from 0 to 1.

        Args:
            begin: a moment, in epochs.
            end: a later one.
        """
        return (
            min(1.0, max(0.0, (self.epochs_done - begin) / (end - begin))) if end > begin else 1.0
        )


def constant_then_decay(schedule: ConstantThenDecayConfig, moment: Moment) -> float:
    """Constant, then divided by ``decay`` at each further epoch (arXiv 1409.2329, section 4.1)."""
    divisions = max(0, moment.epoch - schedule.constant_epochs)
    return schedule.decay**-divisions  # in the end 0, never an overflow


def constant(schedule: ConstantConfig, moment: Moment) -> float:
    """The same rate throughout."""
    return 1.0


def linear_to_zero(schedule: LinearToZeroConfig, moment: Moment) -> float:
    """Constant, then a straight line to 0 at the end of the training."""
    return 1 - moment.between(schedule.constant_epochs, moment.epochs)


def cosine(schedule: CosineConfig, moment: Moment) -> float:
    """A straight line from 0, then half a cosine to ``final_share`` (arXiv 1608.03983)."""
    if moment.epochs_done < schedule.warmup_epochs:
        return moment.between(0, schedule.warmup_epochs)
    fall = (1 + math.cos(math.pi * moment.between(schedule.warmup_epochs, moment.epochs))) / 2
    return schedule.final_share + (1 - schedule.final_share) * fall


def one_cycle(schedule: OneCycleConfig, moment: Moment) -> float:
    """From ``initial_share`` to 1 and back in straight lines, then to 0 (arXiv 1708.07120)."""
    end = moment.epochs * (1 - schedule.final_phase)
    rise, fall = moment.between(0, end / 2), moment.between(end / 2, end)
    share = schedule.initial_share + (1 - schedule.initial_share) * (rise - fall)
    return share * (1 - moment.between(end, moment.epochs)) if fall == 1 else share


SCHEDULES: dict[str, Callable[[Any, Moment], float]] = {
    "constant-then-decay": constant_then_decay,
    "constant": constant,
    "linear-to-zero": linear_to_zero,
    "cosine": cosine,
    "one-cycle": one_cycle,
}
"""The share of ``optimizer.learning_rate`` at a moment, by ``schedule.kind``."""


def learning_rate(config: Config, moment: Moment) -> float:
    """Return the learning rate of a step."""
    share = SCHEDULES[config.schedule.kind](config.schedule, moment)
    return config.optimizer.learning_rate * share
