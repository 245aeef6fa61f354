"""Where a run stands: the one place that knows what a complete training state is."""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt

from ptb_lm.model.perplexity import perplexity
from ptb_lm.model.state import HiddenState


@dataclass
class TrainingState:
    """Plain values, from which every other value of a run in progress is derived.

    Beside these a checkpoint holds the weights and the states of the random generators. The types
    are what a file must hold to be read as one.

    Attributes:
        epochs_done: epochs that are trained and validated.
        windows_done: windows done of the epoch under way; all of them, if only its validation is
            still to come.
        hidden: the state after those windows.
        nll_sum: NLL of the training targets of the epoch under way, in nats.
        targets: their number.
        epoch_seconds: seconds spent training in the epoch under way.
        seconds: seconds spent in the run up to the last epoch done, validation included.
        best_epoch: the epoch with the lowest validation perplexity so far, 0 before the first.
        best_valid_perplexity: that perplexity.
        last_valid_perplexity: the one of the last epoch done.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    epochs_done: NonNegativeInt = 0
    windows_done: NonNegativeInt = 0
    hidden: HiddenState = field(default_factory=list)
    nll_sum: float = 0.0
    targets: NonNegativeInt = 0
    epoch_seconds: NonNegativeFloat = 0.0
    seconds: NonNegativeFloat = 0.0
    best_epoch: NonNegativeInt = 0
    best_valid_perplexity: float = float("inf")
    last_valid_perplexity: float = float("inf")

    def add_windows(self, count: int, nll_sum: float, targets: int, seconds: float) -> None:
        """Count windows, after which :attr:`hidden` is the state.

        Args:
            count: how many.
            nll_sum: NLL of their targets, in nats.
            targets: the number of these.
            seconds: how long they took.
        """
        self.windows_done += count
        self.nll_sum += nll_sum
        self.targets += targets
        self.epoch_seconds += seconds

    def finish_epoch(self, valid_perplexity: float, validation_seconds: float) -> None:
        """Count an epoch, and begin the next with nothing counted of it."""
        self.epochs_done += 1
        self.seconds += self.epoch_seconds + validation_seconds
        self.last_valid_perplexity = valid_perplexity
        if valid_perplexity < self.best_valid_perplexity:
            self.best_epoch, self.best_valid_perplexity = self.epochs_done, valid_perplexity
        self.windows_done, self.nll_sum, self.targets, self.epoch_seconds = 0, 0.0, 0, 0.0

    @property
    def train_perplexity(self) -> float:
        """Of the epoch under way so far, with dropout on and the weights changing."""
        return perplexity(self.nll_sum, self.targets)

    @property
    def words_per_second(self) -> float:
        """Targets trained on per second of the epoch under way, validation not counted."""
        return self.targets / self.epoch_seconds
