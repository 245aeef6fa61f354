"""The learning rate as a pure function of the epoch."""

from ptb_lm.config import TrainingConfig


def learning_rate(training: TrainingConfig, epoch: int) -> float:
    """Return the rate of an epoch, counted from 1 (paper, section 4.1).

    Constant for ``constant_epochs`` epochs, then divided by ``decay`` at each further one.
    """
    divisions = max(0, epoch - training.constant_epochs)
    return training.learning_rate * training.decay**-divisions  # in the end 0, never an overflow
