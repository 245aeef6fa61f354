"""How long a run has trained, from its metrics, and how a duration is written."""

import math
from dataclasses import dataclass

from ptb_lm.training.metrics import Record, number_in


@dataclass
class TrainingClock:
    """How long a run has trained, line by line of its metrics; stops are not counted.

    The line of an epoch's end says it. Within an epoch it follows from the words per second, which
    are those of the epoch so far.
    """

    _epoch_began_at: float = 0.0
    _epoch_began_at_step: int = 0
    _steps: int = 0
    _rate: float = 0.0

    def add(self, record: Record) -> None:
        """Take in the next line."""
        seconds, rate = number_in(record, "seconds"), number_in(record, "words_per_second")
        if not math.isnan(seconds):
            self._epoch_began_at, self._epoch_began_at_step = seconds, record["step"]
            self._steps = 0
        elif rate > 0:
            self._steps, self._rate = max(0, record["step"] - self._epoch_began_at_step), rate

    def seconds(self, targets_per_step: int) -> float:
        """Return how long the run had trained at the last line; infinite where a rate is absurd.

        Args:
            targets_per_step: T * B.
        """
        if not self._steps:
            return self._epoch_began_at
        return self._epoch_began_at + self._steps * targets_per_step / self._rate


def clock(seconds: float) -> str:
    """Write a duration as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
